package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The datastore and the folder in which the commands work.
const (
	datastoreName = "scratch"
	folder        = "by govc"
)

// datastoreFiles makes the calls of datastore.mkdir, upload, ls, download, tail, cp, mv and rm.
func (r *run) datastoreFiles() error {
	datacenter, err := r.finder.DefaultDatacenter(r.ctx)
	if err != nil {
		return err
	}
	datastore, err := r.finder.Datastore(r.ctx, datastoreName)
	if err != nil {
		return err
	}
	manager := datastore.NewFileManager(datacenter, false)
	plain := object.NewFileManager(r.client)
	at := func(name string) string { return path.Join(folder, name) }
	whole := func(name string) string { return datastore.Path(at(name)) }
	noFolder := plain.MakeDirectory(r.ctx, whole("a/b"), datacenter, false)
	again := func() error { return plain.MakeDirectory(r.ctx, whole("a"), datacenter, true) }
	if err := first(
		expectFault(noFolder, types.FileNotFound{}),
		plain.MakeDirectory(r.ctx, whole("a/b"), datacenter, true),
		expectFault(again(), types.FileAlreadyExists{}),
	); err != nil {
		return err
	}

	text := "first\n" + strings.Repeat("a line of many\n", 10_000) + "last\n"
	upload := func(name, text string) error {
		parameters := soap.DefaultUpload
		parameters.ContentLength = int64(len(text))
		return datastore.Upload(r.ctx, strings.NewReader(text), at(name), &parameters)
	}
	local, err := r.localFile(text)
	if err != nil {
		return err
	}
	defer os.Remove(local)
	if err := first(
		datastore.UploadFile(r.ctx, local, at("a/from a file.txt"), nil),
		upload("a/b/x & y=.iso", "short"),
		// A second upload replaces the first one without a question.
		upload("a/b/x & y=.iso", text),
		r.isThere(datastore, at("a/b/x & y=.iso"), text),
		r.tail(datastore, at("a/from a file.txt"), text),
	); err != nil {
		return err
	}

	info, err := datastore.Stat(r.ctx, at("a/b/x & y=.iso"))
	if err != nil {
		return err
	}
	if _, isISO := info.(*types.IsoImageFileInfo); !isISO {
		return fmt.Errorf("the ISO is a %T", info)
	}
	_, noFile := datastore.Stat(r.ctx, at("none"))
	_, noDirectory := datastore.Stat(r.ctx, at("none/x"))
	_, isNoSuchFile := noFile.(object.DatastoreNoSuchFileError)
	_, isNoSuchDirectory := noDirectory.(object.DatastoreNoSuchDirectoryError)
	_, _, missing := datastore.Download(r.ctx, at("none"), nil)
	if err := first(
		expect(info.GetFileInfo().FileSize, int64(len(text))),
		expect(info.GetFileInfo().Modification != nil, true),
		expect(isNoSuchFile, true),
		expect(isNoSuchDirectory, true),
		expect(missing != nil && strings.Contains(missing.Error(), "404"), true),
		r.isListed(datastore, "a", "b/ from a file.txt"),
		r.isListedBelow(datastore, "[scratch] by govc/a/b/: x & y=.iso", "[scratch] by govc/a/: b from a file.txt"),
	); err != nil {
		return err
	}

	if err := first(
		manager.CopyFile(r.ctx, at("a/from a file.txt"), at("copy.txt")),
		expectFault(manager.CopyFile(r.ctx, at("a/from a file.txt"), at("copy.txt")), types.FileAlreadyExists{}),
		manager.MoveFile(r.ctx, at("copy.txt"), at("a/b/moved.txt")),
		expectFault(manager.MoveFile(r.ctx, at("copy.txt"), at("x")), types.FileNotFound{}),
		expectFault(manager.MoveFile(r.ctx, at("a/b/moved.txt"), at("a/from a file.txt")), types.FileAlreadyExists{}),
		r.isThere(datastore, at("a/b/moved.txt"), text),
		manager.Delete(r.ctx, at("a/b/moved.txt")),
		expectFault(manager.Delete(r.ctx, at("a/b/moved.txt")), types.FileNotFound{}),
		r.isListed(datastore, "a/b", "x & y=.iso"),
		// A folder is deleted with everything in it.
		manager.Delete(r.ctx, folder),
	); err != nil {
		return err
	}
	_, gone := datastore.Stat(r.ctx, at("a"))
	_, isGone := gone.(object.DatastoreNoSuchDirectoryError)
	return expect(isGone, true)
}

// localFile makes a file of this computer.
func (r *run) localFile(text string) (string, error) {
	file, err := os.CreateTemp("", "govmomi-client")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text)
	return file.Name(), first(err, file.Close())
}

// isThere downloads a file, and asks for its size by HEAD.
func (r *run) isThere(datastore *object.Datastore, name, text string) error {
	body, length, err := datastore.Download(r.ctx, name, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	read, err := io.ReadAll(body)
	if err := first(
		err,
		expect(length, int64(len(text))),
		expect(string(read) == text, true),
	); err != nil {
		return err
	}
	file, err := datastore.Open(r.ctx, name)
	if err != nil {
		return err
	}
	defer file.Close()
	stat, err := file.Stat()
	return first(err, expect(err == nil && stat.Size() == int64(len(text)), true))
}

// tail reads the end of a file by ranges, and behind its end.
func (r *run) tail(datastore *object.Datastore, name, text string) error {
	file, err := datastore.Open(r.ctx, name)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Tail(2); err != nil {
		return err
	}
	var shown bytes.Buffer
	_, err = io.Copy(&shown, file)
	if err := first(err, expect(shown.String(), "a line of many\nlast\n")); err != nil {
		return err
	}
	if _, err := file.Seek(int64(len(text)), io.SeekStart); err != nil {
		return err
	}
	length, err := file.Read(make([]byte, 1))
	return first(expect(length, 0), expect(err, io.EOF))
}

// isListed compares the names in a folder, in order, with a slash after folders.
func (r *run) isListed(datastore *object.Datastore, below, expected string) error {
	browser, err := datastore.Browser(r.ctx)
	if err != nil {
		return err
	}
	task, err := browser.SearchDatastore(r.ctx, datastore.Path(path.Join(folder, below)), listingSpec())
	if err != nil {
		return err
	}
	info, err := task.WaitForResult(r.ctx, nil)
	if err != nil {
		return err
	}
	found, isResult := info.Result.(types.HostDatastoreBrowserSearchResults)
	if !isResult {
		return fmt.Errorf("the result is a %T", info.Result)
	}
	var names []string
	for _, file := range found.File {
		name := file.GetFileInfo().Path
		if _, isFolder := file.(*types.FolderFileInfo); isFolder {
			name += "/"
		}
		names = append(names, name)
	}
	sort.Strings(names)
	return expect(strings.Join(names, " "), expected)
}

// isListedBelow compares the names in all folders below one, as datastore.ls -R shows them.
func (r *run) isListedBelow(datastore *object.Datastore, expected ...string) error {
	browser, err := datastore.Browser(r.ctx)
	if err != nil {
		return err
	}
	task, err := browser.SearchDatastoreSubFolders(r.ctx, datastore.Path(folder+"/a"), listingSpec())
	if err != nil {
		return err
	}
	info, err := task.WaitForResult(r.ctx, nil)
	if err != nil {
		return err
	}
	found, isResult := info.Result.(types.ArrayOfHostDatastoreBrowserSearchResults)
	if !isResult {
		return fmt.Errorf("the result is a %T", info.Result)
	}
	var folders []string
	for _, one := range found.HostDatastoreBrowserSearchResults {
		var names []string
		for _, file := range one.File {
			names = append(names, file.GetFileInfo().Path)
		}
		sort.Strings(names)
		folders = append(folders, strings.TrimSuffix(one.FolderPath, "/")+"/: "+strings.Join(names, " "))
	}
	sort.Strings(folders)
	sort.Strings(expected)
	return expect(folders, expected)
}

func listingSpec() *types.HostDatastoreBrowserSearchSpec {
	return &types.HostDatastoreBrowserSearchSpec{
		MatchPattern: []string{"*"},
		Details: &types.FileQueryFlags{
			FileType:     true,
			FileSize:     true,
			FileOwner:    types.NewBool(true),
			Modification: true,
		},
	}
}

// media makes the calls of device.cdrom.insert, device.cdrom.eject and device.boot.
func (r *run) media() error {
	machine, err := r.choose("that is off and has a CD drive", func(machine mo.VirtualMachine) bool {
		if !isIdle(machine) {
			return false
		}
		_, err := object.VirtualDeviceList(machine.Config.Hardware.Device).FindCdrom("")
		return err == nil
	})
	if err != nil {
		return err
	}
	datastore, err := r.finder.Datastore(r.ctx, datastoreName)
	if err != nil {
		return err
	}
	text := "an ISO"
	parameters := soap.DefaultUpload
	parameters.ContentLength = int64(len(text))
	if err := datastore.Upload(r.ctx, strings.NewReader(text), "boot.iso", &parameters); err != nil {
		return err
	}
	iso := datastore.Path("boot.iso")
	devices, err := machine.Device(r.ctx)
	if err != nil {
		return err
	}
	drive, err := devices.FindCdrom("")
	if err != nil {
		return err
	}
	original := drive.Backing
	if err := machine.EditDevice(r.ctx, devices.InsertIso(drive, iso)); err != nil {
		return err
	}
	inserted, err := r.backing(machine)
	if err != nil {
		return err
	}
	backing, isISO := inserted.(*types.VirtualCdromIsoBackingInfo)
	if err := expect(isISO && backing.FileName == iso, true); err != nil {
		return err
	}

	order := []string{object.DeviceTypeCdrom, object.DeviceTypeDisk}
	options := &types.VirtualMachineBootOptions{BootOrder: devices.BootOrder(order), BootDelay: 1000}
	if err := machine.SetBootOptions(r.ctx, options); err != nil {
		return err
	}
	read, err := machine.BootOptions(r.ctx)
	if err != nil {
		return err
	}
	if err := first(
		expect(devices.SelectBootOrder(read.BootOrder), devices.SelectBootOrder(options.BootOrder)),
		expect(read.BootDelay, int64(1000)),
		machine.EditDevice(r.ctx, devices.EjectIso(drive)),
	); err != nil {
		return err
	}
	ejected, err := r.backing(machine)
	if err != nil {
		return err
	}
	_, isISO = ejected.(*types.VirtualCdromIsoBackingInfo)
	drive.Backing = original
	// An empty order is the one of the firmware.
	none := &types.VirtualMachineBootOptions{
		BootOrder: []types.BaseVirtualMachineBootOptionsBootableDevice{
			new(types.VirtualMachineBootOptionsBootableDevice),
		},
	}
	return first(
		expect(isISO, false),
		machine.EditDevice(r.ctx, drive),
		machine.SetBootOptions(r.ctx, none),
	)
}

// backing reads what is in the CD drive of a machine.
func (r *run) backing(machine *object.VirtualMachine) (types.BaseVirtualDeviceBackingInfo, error) {
	devices, err := machine.Device(r.ctx)
	if err != nil {
		return nil, err
	}
	drive, err := devices.FindCdrom("")
	if err != nil {
		return nil, err
	}
	return drive.Backing, nil
}
