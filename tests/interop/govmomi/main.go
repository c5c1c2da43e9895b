// govmomi-peer runs govmomi's simulator as an ESX or a vCenter, with machines that have different
// properties.
//
// It serves TLS on a free port of 127.0.0.1, prints the line `URL https://127.0.0.1:PORT/sdk` when
// it answers, and ends when its stdin closes, so that it does not outlive the test. See
// ../README.md.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/signal"
	"reflect"
	"sort"
	"syscall"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// The snapshots of a machine. Each is the child of the one before, and the last is current.
var snapshots = []string{"base", "updated", "kickstart"}

func main() {
	mode := flag.String("mode", "esx", "what to be: esx or vpx")
	machines := flag.Int("machines", 4, "how many machines; every second one has snapshots, the first among them")
	on := flag.Bool("on", true, "whether the machines are powered on at first")
	user := flag.String("user", "root", "the one account")
	password := flag.String("password", "otter", "its password")
	flag.Parse()

	if err := serve(*mode, *machines, *on, url.UserPassword(*user, *password)); err != nil {
		log.Fatal(err)
	}
}

func serve(mode string, machines int, on bool, account *url.Userinfo) error {
	model, err := modelOf(mode)
	if err != nil {
		return err
	}
	model.Machine = machines
	model.Autostart = on
	// The datastores are temporary directories.
	defer model.Remove()
	if err := model.Create(); err != nil {
		return err
	}

	own, err := certificate()
	if err != nil {
		return err
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: account}
	// The server is not closed at the end, because that waits for long polls.
	server := model.Service.NewServer()

	giveEachItsOwnMAC()
	if err := takeSnapshots(server.URL); err != nil {
		return err
	}

	address := *server.URL
	address.User = nil
	fmt.Println("URL", address.String())
	waitForTheEnd()
	return nil
}

// certificate makes the certificate of the server. The default certificate has an RSA key of 1024
// bits, which current clients refuse.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "govmomi simulator"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func modelOf(mode string) (*simulator.Model, error) {
	switch mode {
	case "esx":
		return simulator.ESX(), nil
	case "vpx":
		model := simulator.VPX()
		// With one resource pool `-machines` is the number of machines in a vCenter too.
		model.Cluster = 0
		return model, nil
	}
	return nil, fmt.Errorf("-mode %s: must be esx or vpx", mode)
}

// giveEachItsOwnMAC sets the MAC addresses, from 00:50:56:00:00:00 on. The machines of a model
// share one network card, so each gets a copy.
func giveEachItsOwnMAC() {
	for index, machine := range inOrder() {
		address := fmt.Sprintf("00:50:56:00:%02x:%02x", index>>8, index&0xff)
		machine.Config.Hardware.Device = append([]types.BaseVirtualDevice(nil), machine.Config.Hardware.Device...)
		for i, device := range machine.Config.Hardware.Device {
			if _, ok := device.(types.BaseVirtualEthernetCard); !ok {
				continue
			}
			original := reflect.ValueOf(device).Elem()
			own := reflect.New(original.Type())
			own.Elem().Set(original)
			card := own.Interface().(types.BaseVirtualDevice)
			card.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().MacAddress = address
			machine.Config.Hardware.Device[i] = card
		}
		for i := range machine.Guest.Net {
			machine.Guest.Net[i].MacAddress = address
		}
	}
}

// takeSnapshots creates the snapshots as a client does. It hides the log of the simulator, which
// has a line for each file name that it tries.
func takeSnapshots(address *url.URL) error {
	log.SetOutput(io.Discard)
	defer log.SetOutput(os.Stderr)
	ctx := context.Background()
	client, err := govmomi.NewClient(ctx, address, true)
	if err != nil {
		return err
	}
	for index, simulated := range inOrder() {
		if index%2 == 1 {
			continue
		}
		machine := object.NewVirtualMachine(client.Client, simulated.Reference())
		for _, name := range snapshots {
			task, err := machine.CreateSnapshot(ctx, name, "the "+name+" state", false, false)
			if err != nil {
				return err
			}
			if err := task.Wait(ctx); err != nil {
				return err
			}
		}
	}
	return client.Logout(ctx)
}

// inOrder returns the machines in the order of their numbers: VM0, VM1, … VM10.
func inOrder() []*simulator.VirtualMachine {
	var machines []*simulator.VirtualMachine
	for _, entity := range simulator.Map.All("VirtualMachine") {
		machines = append(machines, entity.(*simulator.VirtualMachine))
	}
	sort.Slice(machines, func(i, j int) bool {
		a, b := machines[i].Name, machines[j].Name
		return len(a) < len(b) || len(a) == len(b) && a < b
	})
	return machines
}

// waitForTheEnd returns when stdin is closed or a signal comes.
func waitForTheEnd() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end <- os.Interrupt
	}()
	<-end
}
