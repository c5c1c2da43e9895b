package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func (r *run) properties() *property.Collector { return property.DefaultCollector(r.client) }

func (r *run) about() error {
	about := r.client.ServiceContent.About
	now, err := methods.GetCurrentTime(r.ctx, r.client)
	return first(err, expect(about.ApiType, "HostAgent"), expect(about.ApiVersion, "7.0.3.0"), expect(now.IsZero(), false))
}

func (r *run) sessionList() error {
	var manager mo.SessionManager
	err := r.properties().RetrieveOne(r.ctx, *r.client.ServiceContent.SessionManager, nil, &manager)
	if err != nil {
		return err
	}
	own, err := session.NewManager(r.client).UserSession(r.ctx)
	if err != nil {
		return err
	}
	for _, other := range manager.SessionList {
		if other.Key == own.Key {
			return first(expect(other.UserName, r.user), expect(other.UserAgent != "", true))
		}
	}
	return fmt.Errorf("the own session is not listed")
}

func (r *run) list() error {
	for path, expected := range map[string]string{
		"/":                      "/ha-datacenter",
		"/ha-datacenter":         "/ha-datacenter/datastore /ha-datacenter/host /ha-datacenter/network /ha-datacenter/vm",
		"/ha-datacenter/network": "/ha-datacenter/network/VM Network",
	} {
		found, err := r.finder.ManagedObjectListChildren(r.ctx, path)
		if err != nil {
			return err
		}
		var paths []string
		for _, element := range found {
			paths = append(paths, element.Path)
		}
		sort.Strings(paths)
		if err := expect(strings.Join(paths, " "), expected); err != nil {
			return err
		}
	}
	for path, kinds := range map[string]string{
		"/ha-datacenter/host":      "ComputeResource",
		"/ha-datacenter/host/*":    "HostSystem ResourcePool",
		"/ha-datacenter/vm":        "VirtualMachine",
		"/ha-datacenter/datastore": "Datastore",
	} {
		found, err := r.finder.ManagedObjectListChildren(r.ctx, path)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("nothing below %s", path)
		}
		for _, element := range found {
			if !strings.Contains(kinds, element.Object.Reference().Type) {
				return fmt.Errorf("%s below %s", element.Object.Reference(), path)
			}
		}
	}
	datacenter, err := r.finder.DefaultDatacenter(r.ctx)
	if err != nil {
		return err
	}
	r.finder.SetDatacenter(datacenter)
	for _, one := range []func() (object.Reference, error){
		func() (object.Reference, error) { return r.finder.DefaultResourcePool(r.ctx) },
		func() (object.Reference, error) { return r.finder.DefaultHostSystem(r.ctx) },
		func() (object.Reference, error) { return r.finder.DefaultNetwork(r.ctx) },
		func() (object.Reference, error) { return r.finder.FolderOrDefault(r.ctx, "vm") },
	} {
		if _, err := one(); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) find() error {
	manager := view.NewManager(r.client)
	machines, err := manager.CreateContainerView(r.ctx, r.client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		return err
	}
	found, err := machines.Find(r.ctx, []string{"VirtualMachine"}, nil)
	if err != nil {
		return err
	}
	listed, err := r.machines([]string{"name"})
	if err != nil {
		return err
	}
	if err := expect(len(found), len(listed)); err != nil {
		return err
	}
	on, err := machines.Find(r.ctx, []string{"VirtualMachine"}, property.Filter{"runtime.powerState": "poweredOn"})
	if err != nil {
		return err
	}
	if len(on) == 0 || len(on) >= len(found) {
		return fmt.Errorf("%d of %d machines are on", len(on), len(found))
	}
	for _, machine := range found[:2] {
		path, err := find.InventoryPath(r.ctx, r.client, machine)
		if err != nil {
			return err
		}
		again, err := object.NewSearchIndex(r.client).FindByInventoryPath(r.ctx, path)
		if err != nil {
			return err
		}
		if again == nil || again.Reference() != machine {
			return fmt.Errorf("%s leads to %v", path, again)
		}
	}
	return machines.Destroy(r.ctx)
}

// tree reads the inventory level by level, with a view for each object.
func (r *run) tree() error {
	manager := view.NewManager(r.client)
	kinds := map[string]int{}
	open := []types.ManagedObjectReference{r.client.ServiceContent.RootFolder}
	for len(open) > 0 {
		at := open[0]
		open = open[1:]
		kinds[at.Type]++
		switch at.Type {
		case "Folder", "Datacenter", "ComputeResource", "ResourcePool":
		default:
			continue
		}
		level, err := manager.CreateContainerView(r.ctx, at, nil, false)
		if err != nil {
			return err
		}
		var children []mo.ManagedEntity
		if err := level.Retrieve(r.ctx, nil, []string{"name"}, &children); err != nil {
			return err
		}
		for _, child := range children {
			open = append(open, child.Self)
		}
		if err := level.Destroy(r.ctx); err != nil {
			return err
		}
	}
	return first(expect(kinds["Folder"], 5), expect(kinds["HostSystem"], 1), expect(kinds["VirtualMachine"] > 0, true))
}

// readsOfCurrentGovc makes the reads of a govc that is newer than the packages here:
// RetrievePropertiesEx by base classes, with types that this host does not have, and a traversal
// that refers to itself by name.
func (r *run) readsOfCurrentGovc() error {
	machine, err := r.choose("at all", func(mo.VirtualMachine) bool { return true })
	if err != nil {
		return err
	}
	ancestors := types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{
			{Type: "ManagedEntity", PathSet: []string{"name", "parent"}},
			{Type: "VirtualMachine", PathSet: []string{"parentVApp"}},
		},
		ObjectSet: []types.ObjectSpec{{
			Obj: machine.Reference(),
			SelectSet: []types.BaseSelectionSpec{
				&types.TraversalSpec{
					SelectionSpec: types.SelectionSpec{Name: "traverseParent"},
					Type:          "ManagedEntity",
					Path:          "parent",
					SelectSet:     []types.BaseSelectionSpec{&types.SelectionSpec{Name: "traverseParent"}},
				},
				&types.TraversalSpec{
					Type:      "VirtualMachine",
					Path:      "parentVApp",
					SelectSet: []types.BaseSelectionSpec{&types.SelectionSpec{Name: "traverseParent"}},
				},
			},
		}},
	}
	rows, err := r.read(ancestors)
	if err != nil {
		return err
	}
	var kinds []string
	for _, row := range rows {
		kinds = append(kinds, row.Obj.Type)
	}
	if err := expect(kinds, []string{"VirtualMachine", "Folder", "Datacenter", "Folder"}); err != nil {
		return err
	}

	children := types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{
			{Type: "Folder", PathSet: []string{"name", "childType"}},
			{Type: "Datacenter", PathSet: []string{"name"}},
			{Type: "VirtualApp", PathSet: []string{"name"}},
			{Type: "VirtualMachine", PathSet: []string{"name"}},
			{Type: "Network", PathSet: []string{"name"}},
			{Type: "ComputeResource", PathSet: []string{"name", "resourcePool"}},
			{Type: "ClusterComputeResource", PathSet: []string{"name", "resourcePool"}},
			{Type: "Datastore", PathSet: []string{"name"}},
			{Type: "DistributedVirtualSwitch", PathSet: []string{"name"}},
		},
		ObjectSet: []types.ObjectSpec{{
			Obj:       r.client.ServiceContent.RootFolder,
			Skip:      types.NewBool(true),
			SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: "Folder", Path: "childEntity"}},
		}},
	}
	rows, err = r.read(children)
	if err != nil {
		return err
	}
	return first(expect(len(rows), 1), expect(rows[0].Obj.Type, "Datacenter"))
}

func (r *run) read(spec types.PropertyFilterSpec) ([]types.ObjectContent, error) {
	request := types.RetrievePropertiesEx{
		This:    r.client.ServiceContent.PropertyCollector,
		SpecSet: []types.PropertyFilterSpec{spec},
	}
	answer, err := methods.RetrievePropertiesEx(r.ctx, r.client, &request)
	if err != nil {
		return nil, err
	}
	for _, row := range answer.Returnval.Objects {
		if len(row.MissingSet) > 0 {
			return nil, fmt.Errorf("%s.%s is missing", row.Obj, row.MissingSet[0].Path)
		}
	}
	return answer.Returnval.Objects, nil
}

// info reads all properties of all machines and writes them as JSON, which decodes every device and
// question.
func (r *run) info() error {
	machines, err := r.machines(nil)
	if err != nil {
		return err
	}
	for _, machine := range machines {
		name := machine.Name
		if err := expect(machine.Summary.Config.Name, name); err != nil {
			return err
		}
		var text bytes.Buffer
		if err := json.NewEncoder(&text).Encode(machine); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if machine.Config == nil {
			continue
		}
		for at, device := range machine.Config.Hardware.Device {
			if device == nil {
				return fmt.Errorf("%s has a device at %d whose type is not known", name, at)
			}
			card, isCard := device.(types.BaseVirtualEthernetCard)
			if isCard && card.GetVirtualEthernetCard().Backing == nil {
				return fmt.Errorf("%s has a card without a backing", name)
			}
		}
		var host mo.HostSystem
		err := r.properties().RetrieveOne(r.ctx, *machine.Summary.Runtime.Host, []string{"name"}, &host)
		if err != nil || host.Name == "" {
			return fmt.Errorf("the host of %s: %w", name, err)
		}
		index := object.NewSearchIndex(r.client)
		byInstance, err := index.FindByUuid(r.ctx, nil, machine.Config.InstanceUuid, true, types.NewBool(true))
		if err != nil || byInstance == nil || byInstance.Reference() != machine.Self {
			return fmt.Errorf("%s by its instance UUID: %v %w", name, byInstance, err)
		}
	}
	return nil
}

func (r *run) datastores() error {
	found, err := r.finder.DatastoreList(r.ctx, "*")
	if err != nil {
		return err
	}
	for _, datastore := range found {
		var read mo.Datastore
		if err := datastore.Properties(r.ctx, datastore.Reference(), []string{"info", "summary"}, &read); err != nil {
			return err
		}
		switch info := read.Info.(type) {
		case *types.VmfsDatastoreInfo:
			err = expect(info.Vmfs != nil, true)
		case *types.NasDatastoreInfo:
			err = expect(info.Nas != nil, true)
		default:
			err = fmt.Errorf("info is a %T", info)
		}
		err = first(err, expect(read.Summary.Name, datastore.Name()), expect(read.Summary.Capacity > 0, true))
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) hosts() error {
	found, err := r.finder.HostSystemList(r.ctx, "*")
	if err != nil {
		return err
	}
	var host mo.HostSystem
	paths := []string{"summary", "hardware", "config.network", "configManager"}
	if err := found[0].Properties(r.ctx, found[0].Reference(), paths, &host); err != nil {
		return err
	}
	system, err := found[0].ConfigManager().NetworkSystem(r.ctx)
	if err != nil {
		return err
	}
	var networkSystem mo.HostNetworkSystem
	if err := system.Properties(r.ctx, system.Reference(), []string{"networkInfo"}, &networkSystem); err != nil {
		return err
	}
	return first(
		expect(len(found), 1),
		expect(host.Summary.Hardware.Uuid != "", true),
		expect(host.Hardware.SystemInfo.Uuid, host.Summary.Hardware.Uuid),
		expect(host.Config.Network.Vnic[0].Device, "vmk0"),
		expect(networkSystem.NetworkInfo.Vswitch[0].Name, host.Config.Network.Vswitch[0].Name),
	)
}

// collect reads single paths, as named on the command line, and waits until one changes.
func (r *run) collect() error {
	machine, err := r.choose("to be watched", isIdle)
	if err != nil {
		return err
	}
	paths := []string{"name", "summary.config.vmPathName", "config.hardware.device", "runtime.powerState"}
	seen := map[string]types.AnyType{}
	err = property.Wait(r.ctx, r.properties(), machine.Reference(), paths, func(changes []types.PropertyChange) bool {
		for _, change := range changes {
			seen[change.Name] = change.Val
		}
		return true
	})
	if err != nil {
		return err
	}
	if err := first(expect(len(seen), 4), expect(seen["runtime.powerState"], types.VirtualMachinePowerStatePoweredOff)); err != nil {
		return err
	}
	done := make(chan error, 1)
	states := make(chan types.AnyType, 8)
	go func() {
		done <- property.Wait(r.ctx, r.properties(), machine.Reference(), paths[3:], func(changes []types.PropertyChange) bool {
			states <- changes[0].Val
			return changes[0].Val == types.VirtualMachinePowerStatePoweredOn
		})
	}()
	if err := expect(<-states, types.VirtualMachinePowerStatePoweredOff); err != nil {
		return err
	}
	return first(await(machine.PowerOn(r.ctx)), <-done, await(machine.PowerOff(r.ctx)))
}

// tasks follows the tasks of the task manager through a task view.
func (r *run) tasks() error {
	watch := r.client.ServiceContent.TaskManager
	list, err := view.NewManager(r.client).CreateTaskView(r.ctx, watch)
	if err != nil {
		return err
	}
	var manager mo.TaskManager
	if err := r.properties().RetrieveOne(r.ctx, *watch, []string{"description.methodInfo"}, &manager); err != nil {
		return err
	}
	labels := map[string]string{}
	for _, method := range manager.Description.MethodInfo {
		labels[method.GetElementDescription().Key] = method.GetElementDescription().Label
	}
	var names []string
	err = list.Collect(r.ctx, func(infos []types.TaskInfo) {
		for _, info := range infos {
			names = append(names, info.DescriptionId)
		}
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		if labels[name] == "" {
			return fmt.Errorf("there is no label for %s", name)
		}
	}
	return first(expect(len(names) > 10, true), list.Destroy(r.ctx))
}

func (r *run) events() error {
	manager := event.NewManager(r.client)
	kinds := map[string]int{}
	root := []types.ManagedObjectReference{r.client.ServiceContent.RootFolder}
	see := func(_ types.ManagedObjectReference, events []types.BaseEvent) error {
		event.Sort(events)
		for _, one := range events {
			category, err := manager.EventCategory(r.ctx, one)
			if err != nil {
				return err
			}
			kinds[fmt.Sprintf("%T %s", one, category)]++
		}
		return nil
	}
	if err := manager.Events(r.ctx, root, 100, false, false, see); err != nil {
		return err
	}
	for _, kind := range []string{
		"*types.UserLoginSessionEvent info", "*types.BadUsernameSessionEvent error", "*types.TaskEvent info",
		"*types.VmPoweredOnEvent info", "*types.VmPoweredOffEvent info", "*types.VmMessageEvent info",
	} {
		if kinds[kind] == 0 {
			return fmt.Errorf("no %s among %v", kind, kinds)
		}
	}
	return nil
}
