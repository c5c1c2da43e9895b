// govmomi does what `govc ls` and `govc vm.info` do: it lists the machines of a host, or reads one
// machine by its name. It prints the durations in microseconds as JSON: with the login, and without.
//
//	govmomi -url https://127.0.0.1:PORT/sdk [-name NAME]
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/url"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func main() {
	log.SetFlags(0)
	address := flag.String("url", "", "the host's https://HOST:PORT/sdk")
	name := flag.String("name", "", "the machine to read; without it, all machines are listed")
	flag.Parse()
	host, err := url.Parse(*address)
	if err != nil {
		log.Fatal(err)
	}
	host.User = url.UserPassword("root", "otter")
	ctx := context.Background()
	started := time.Now()
	client, err := govmomi.NewClient(ctx, host, true)
	if err != nil {
		log.Fatal(err)
	}
	connected := time.Now()
	found, err := read(ctx, client, *name)
	if err != nil {
		log.Fatal(err)
	}
	ended := time.Now()
	fmt.Printf("{\"machines\": %d, \"whole\": %d, \"open\": %d}\n", found,
		ended.Sub(started).Microseconds(), ended.Sub(connected).Microseconds())
}

// read lists the machines, or reads what `govc vm.info` shows of one. It returns their number.
func read(ctx context.Context, client *govmomi.Client, name string) (int, error) {
	finder := find.NewFinder(client.Client)
	datacenter, err := finder.DefaultDatacenter(ctx)
	if err != nil {
		return 0, err
	}
	finder.SetDatacenter(datacenter)
	if name == "" {
		found, err := finder.ManagedObjectListChildren(ctx, "/ha-datacenter/vm")
		return len(found), err
	}
	machines, err := finder.VirtualMachineList(ctx, name)
	if err != nil {
		return 0, err
	}
	var references []types.ManagedObjectReference
	for _, machine := range machines {
		references = append(references, machine.Reference())
	}
	var read []mo.VirtualMachine
	paths := []string{"summary", "config", "guest", "runtime"}
	err = property.DefaultCollector(client.Client).Retrieve(ctx, references, paths, &read)
	return len(read), err
}
