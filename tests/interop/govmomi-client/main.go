// govmomi-client makes the calls of govc commands on a simulated ESX, with govmomi's client
// packages.
//
//	govmomi-client -url https://127.0.0.1:PORT/sdk -user root -password otter
//
// Each step is one command. At the first deviation the program prints the command and exits with 1.
// See ../README.md. `reading.go` has the commands that read, `changing.go` those that change
// machines, `console.go` the one that shows a screen, `files.go` those of datastores and drives.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"reflect"
	"time"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/session/cache"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// run holds the session that all steps use.
type run struct {
	ctx    context.Context
	client *vim25.Client
	finder *find.Finder
	user   string
}

func main() {
	log.SetFlags(0)
	address := flag.String("url", "", "the host's https://HOST:PORT/sdk")
	user := flag.String("user", "root", "the account")
	password := flag.String("password", "otter", "its password")
	flag.Parse()

	host, err := url.Parse(*address)
	if err != nil {
		log.Fatal(err)
	}
	sessions, err := os.MkdirTemp("", "govmomi-client")
	if err != nil {
		log.Fatal(err)
	}
	err = steps(host, url.UserPassword(*user, *password), sessions)
	_ = os.RemoveAll(sessions)
	if err != nil {
		log.Fatal(err)
	}
}

func steps(host *url.URL, account *url.Userinfo, sessions string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	if err := refused(ctx, *host); err != nil {
		return fmt.Errorf("a wrong password: %w", err)
	}
	host.User = account
	client, err := connect(ctx, host, sessions)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	r := &run{ctx: ctx, client: client, finder: find.NewFinder(client), user: account.Username()}
	for _, step := range []struct {
		command string
		do      func() error
	}{
		{"about", r.about},
		{"session.ls", r.sessionList},
		{"ls", r.list},
		{"find", r.find},
		{"tree", r.tree},
		{"reads of a current govc", r.readsOfCurrentGovc},
		{"vm.info -json", r.info},
		{"datastore.info", r.datastores},
		{"host.info", r.hosts},
		{"vm.console", r.console},
		{"vm.power", r.power},
		{"vm.power -s", r.guest},
		{"snapshot.*", r.snapshots},
		{"vm.question", r.question},
		{"datastore.*", r.datastoreFiles},
		{"device.cdrom.*, device.boot", r.media},
		{"object.collect", r.collect},
		{"tasks", r.tasks},
		{"events", r.events},
		{"faults", r.faults},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.command, err)
		}
		fmt.Println("ok", step.command)
	}
	return session.NewManager(client).Logout(ctx)
}

// connect logs in twice as govc does. The second login finds the session that the first one stored
// in a file, and asks the host whether the session is valid.
func connect(ctx context.Context, host *url.URL, sessions string) (*vim25.Client, error) {
	var client *vim25.Client
	keys := map[string]bool{}
	for range []int{1, 2} {
		kept := &cache.Session{URL: host, DirSOAP: sessions, Insecure: true}
		client = new(vim25.Client)
		if err := kept.Login(ctx, client, nil); err != nil {
			return nil, err
		}
		own, err := session.NewManager(client).UserSession(ctx)
		if err != nil {
			return nil, err
		}
		if own == nil {
			return nil, fmt.Errorf("there is no session after the login")
		}
		keys[own.Key] = true
	}
	if len(keys) != 1 {
		return nil, fmt.Errorf("the stored session was not used: %v", keys)
	}
	return client, nil
}

func refused(ctx context.Context, host url.URL) error {
	host.User = url.UserPassword("root", "wrong")
	client, err := vim25.NewClient(ctx, soap.NewClient(&host, true))
	if err != nil {
		return err
	}
	err = session.NewManager(client).Login(ctx, host.User)
	return expectFault(err, types.InvalidLogin{})
}

// machines reads these properties (nil: all) of all machines.
func (r *run) machines(properties []string) ([]mo.VirtualMachine, error) {
	found, err := r.finder.VirtualMachineList(r.ctx, "/*/vm/*")
	if err != nil {
		return nil, err
	}
	var references []types.ManagedObjectReference
	for _, machine := range found {
		references = append(references, machine.Reference())
	}
	var read []mo.VirtualMachine
	if err := r.properties().Retrieve(r.ctx, references, properties, &read); err != nil {
		return nil, err
	}
	return read, expect(len(read), len(found))
}

// choose returns the first machine that fits, in the order of the references.
func (r *run) choose(what string, fits func(mo.VirtualMachine) bool) (*object.VirtualMachine, error) {
	machines, err := r.machines([]string{"name", "config", "runtime", "guest", "snapshot"})
	if err != nil {
		return nil, err
	}
	var chosen *object.VirtualMachine
	for _, machine := range machines {
		if fits(machine) && (chosen == nil || machine.Self.Value < chosen.Reference().Value) {
			chosen = object.NewVirtualMachine(r.client, machine.Self)
		}
	}
	if chosen == nil {
		return nil, fmt.Errorf("there is no machine %s", what)
	}
	return chosen, nil
}

// isIdle reports whether a machine is off, has no question, and may be powered on.
func isIdle(machine mo.VirtualMachine) bool {
	return machine.Runtime.ConnectionState == types.VirtualMachineConnectionStateConnected &&
		machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff &&
		machine.Runtime.Question == nil && machine.Config != nil && !machine.Config.Template
}

func expect(seen, expected interface{}) error {
	if !reflect.DeepEqual(seen, expected) {
		return fmt.Errorf("%v instead of %v", seen, expected)
	}
	return nil
}

// expectFault checks that an error is this fault, of the call or of its task.
func expectFault(err error, fault interface{}) error {
	expected := reflect.TypeOf(fault)
	var seen interface{}
	if err != nil && soap.IsSoapFault(err) {
		seen = soap.ToSoapFault(err).VimFault()
	} else if carried, ok := err.(interface{ Fault() types.BaseMethodFault }); ok {
		seen = reflect.ValueOf(carried.Fault()).Elem().Interface()
	}
	if seen == nil || reflect.TypeOf(seen) != expected {
		return fmt.Errorf("%v (%T) instead of %s", err, seen, expected.Name())
	}
	return nil
}

// first returns the first error.
func first(errors ...error) error {
	for _, err := range errors {
		if err != nil {
			return err
		}
	}
	return nil
}
