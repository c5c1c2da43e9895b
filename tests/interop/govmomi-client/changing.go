package main

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// await waits for the end of a task.
func await(started *object.Task, err error) error {
	if err != nil {
		return err
	}
	_, err = started.WaitForResult(context.Background(), nil)
	return err
}

func (r *run) power() error {
	machine, err := r.choose("that is off", isIdle)
	if err != nil {
		return err
	}
	state := func(expected types.VirtualMachinePowerState) error {
		seen, err := machine.PowerState(r.ctx)
		return first(err, expect(seen, expected))
	}
	return first(
		await(machine.PowerOn(r.ctx)),
		state(types.VirtualMachinePowerStatePoweredOn),
		expectFault(await(machine.PowerOn(r.ctx)), types.InvalidPowerState{}),
		expectFault(machine.ShutdownGuest(r.ctx), types.ToolsUnavailable{}),
		await(machine.Reset(r.ctx)),
		await(machine.Suspend(r.ctx)),
		state(types.VirtualMachinePowerStateSuspended),
		await(machine.PowerOn(r.ctx)),
		await(machine.PowerOff(r.ctx)),
		state(types.VirtualMachinePowerStatePoweredOff),
		expectFault(await(machine.PowerOff(r.ctx)), types.InvalidPowerState{}),
	)
}

// guest waits for an address and the end of a shutdown, as vm.ip and vm.power -s -wait do.
func (r *run) guest() error {
	machine, err := r.choose("that is off and has tools", func(machine mo.VirtualMachine) bool {
		return isIdle(machine) && machine.Guest.ToolsStatus != types.VirtualMachineToolsStatusToolsNotInstalled
	})
	if err != nil {
		return err
	}
	if err := await(machine.PowerOn(r.ctx)); err != nil {
		return err
	}
	address, err := machine.WaitForIP(r.ctx)
	if err != nil {
		return err
	}
	byAddress, err := object.NewSearchIndex(r.client).FindByIp(r.ctx, nil, address, true)
	if err != nil {
		return err
	}
	running, err := machine.IsToolsRunning(r.ctx)
	return first(
		err,
		expect(byAddress != nil && byAddress.Reference() == machine.Reference(), true),
		expect(running, true),
		machine.ShutdownGuest(r.ctx),
		machine.WaitForPowerState(r.ctx, types.VirtualMachinePowerStatePoweredOff),
	)
}

func (r *run) snapshots() error {
	machine, err := r.choose("that is off and has snapshots", func(machine mo.VirtualMachine) bool {
		return isIdle(machine) && machine.Snapshot != nil
	})
	if err != nil {
		return err
	}
	before, err := r.snapshotTree(machine)
	if err != nil {
		return err
	}
	created, err := machine.CreateSnapshot(r.ctx, "by govmomi", "a description", true, false)
	if err != nil {
		return err
	}
	info, err := created.WaitForResult(r.ctx, nil)
	if err != nil {
		return err
	}
	made, isReference := info.Result.(types.ManagedObjectReference)
	if !isReference || made.Type != "VirtualMachineSnapshot" {
		return fmt.Errorf("the result is %v", info.Result)
	}
	if err := r.inTree(machine, before+1, "by govmomi"); err != nil {
		return err
	}
	consolidate := types.NewBool(true)
	rename := types.RenameSnapshot{This: made, Name: "renamed", Description: "another"}
	_, err = methods.RenameSnapshot(r.ctx, r.client, &rename)
	if err := first(
		err,
		r.inTree(machine, before+1, "renamed"),
		await(machine.CreateSnapshot(r.ctx, "below", "", false, false)),
		r.inTree(machine, before+2, "below"),
		await(machine.RevertToSnapshot(r.ctx, "renamed", false)),
		await(machine.RevertToCurrentSnapshot(r.ctx, false)),
		await(machine.RemoveSnapshot(r.ctx, "below", false, consolidate)),
		r.inTree(machine, before+1, "renamed"),
	); err != nil {
		return err
	}
	_, err = methods.RenameSnapshot(r.ctx, r.client, &types.RenameSnapshot{
		This: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: made.Value + "-gone"},
		Name: "x",
	})
	if err := expectFault(err, types.ManagedObjectNotFound{}); err != nil {
		return err
	}
	if err := await(machine.RemoveAllSnapshot(r.ctx, consolidate)); err != nil {
		return err
	}
	return r.inTree(machine, 0, "")
}

// snapshotTree reads what snapshot.tree reads, including the files and their sizes, and returns the
// number of snapshots.
func (r *run) snapshotTree(machine *object.VirtualMachine) (int, error) {
	var read mo.VirtualMachine
	err := machine.Properties(r.ctx, machine.Reference(), []string{"snapshot", "layoutEx"}, &read)
	if err != nil || read.Snapshot == nil {
		return 0, err
	}
	if read.LayoutEx == nil || len(read.LayoutEx.File) == 0 {
		return 0, fmt.Errorf("there are no files")
	}
	count := 0
	open := read.Snapshot.RootSnapshotList
	for len(open) > 0 {
		at := open[0]
		open = append(open[1:], at.ChildSnapshotList...)
		count++
	}
	return count, nil
}

// inTree checks the number of snapshots of a machine, and that one has this name.
func (r *run) inTree(machine *object.VirtualMachine, expected int, name string) error {
	count, err := r.snapshotTree(machine)
	if err := first(err, expect(count, expected)); err != nil || name == "" {
		return err
	}
	_, err = machine.FindSnapshot(r.ctx, name)
	return err
}

func (r *run) question() error {
	machine, err := r.choose("that asks", func(machine mo.VirtualMachine) bool {
		return machine.Runtime.Question != nil
	})
	if err != nil {
		return err
	}
	var read mo.VirtualMachine
	err = r.properties().RetrieveOne(r.ctx, machine.Reference(), []string{"runtime.question"}, &read)
	if err != nil {
		return err
	}
	question := read.Runtime.Question
	choices := question.Choice.ChoiceInfo
	if len(choices) < 2 {
		return fmt.Errorf("%d choices", len(choices))
	}
	key := choices[1].(*types.ElementDescription).Key
	answered := func() error {
		return property.Wait(r.ctx, r.properties(), machine.Reference(), []string{"runtime.question"},
			func(changes []types.PropertyChange) bool { return len(changes) == 0 || changes[0].Val == nil })
	}
	return first(
		expectFault(machine.Answer(r.ctx, question.Id, "77"), types.InvalidArgument{}),
		machine.Answer(r.ctx, question.Id, key),
		machine.WaitForPowerState(r.ctx, types.VirtualMachinePowerStatePoweredOn),
		answered(),
		expectFault(machine.Answer(r.ctx, question.Id, key), types.InvalidArgument{}),
		await(machine.PowerOff(r.ctx)),
	)
}

// faults provokes the faults of a call, of a read, and of an object that does not exist.
func (r *run) faults() error {
	gone := object.NewVirtualMachine(r.client, types.ManagedObjectReference{Type: "VirtualMachine", Value: "no-such"})
	template, err := r.choose("that is a template", func(machine mo.VirtualMachine) bool {
		return machine.Config != nil && machine.Config.Template
	})
	if err != nil {
		return err
	}
	var read mo.VirtualMachine
	return first(
		expectFault(await(gone.PowerOn(r.ctx)), types.ManagedObjectNotFound{}),
		expectFault(await(template.PowerOn(r.ctx)), types.NotSupported{}),
		expectFault(template.Properties(r.ctx, template.Reference(), []string{"nonsense"}, &read), types.InvalidProperty{}),
		expectFault(await(template.Clone(r.ctx, object.NewFolder(r.client, types.ManagedObjectReference{
			Type: "Folder", Value: "ha-folder-vm",
		}), "copy", types.VirtualMachineCloneSpec{})), types.NotSupported{}),
	)
}
