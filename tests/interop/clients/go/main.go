// A round trip with the client that openapi-generator generates. The argument is the address of
// otter.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"

	"roundtrip/otter"
)

const snapshotPath = "installed/updated/kickstart"

func main() {
	log.SetFlags(log.Lshortfile)
	ctx, address := context.Background(), os.Args[1]
	configuration := otter.NewConfiguration()
	configuration.Servers = otter.ServerConfigurations{{URL: address}}
	client := otter.NewAPIClient(configuration)

	machines, _, err := client.MachinesAPI.ListMachines(ctx).Execute()
	check(err == nil, err)
	var staging otter.Machine
	for _, machine := range machines.Items {
		if machine.Name == "qubes-4.2-sdw-staging" {
			staging = machine
		}
	}
	check(len(staging.NetworkCards) == 1, staging)
	mac := *staging.NetworkCards[0].MacAddress.Get()

	found, _, err := client.MachinesAPI.FindMachine(ctx).Mac(mac).Execute()
	check(err == nil, err)
	check(found.Id == staging.Id && found.Free, found)
	check(*found.PowerState.Get() == otter.POWERSTATE_OFF, found)

	snapshots, _, err := client.SnapshotsAPI.ListSnapshots(ctx, found.Id).Execute()
	check(err == nil, err)
	var kickstart otter.Snapshot
	for _, snapshot := range snapshots.Items {
		if snapshot.Path == snapshotPath {
			kickstart = snapshot
		}
	}

	request := otter.RevertRequest{Snapshot: otter.PtrString(snapshotPath)}
	job, _, err := client.SnapshotsAPI.RevertMachine(ctx, found.Id).RevertRequest(request).Wait("5m").Execute()
	check(err == nil, err)
	check(job.State == otter.JOBSTATE_SUCCEEDED && job.Result.IsSet(), job)
	result := job.Result.Get()
	check(*result.Snapshot.Get() == kickstart.Id && *result.PowerState.Get() == otter.POWERSTATE_OFF, result)

	read, _, err := client.JobsAPI.GetJob(ctx, job.Id).Execute()
	check(err == nil, err)
	check(reflect.DeepEqual(read, job) && read.Kind == "snapshot.revert", read)
	check(!read.FinishedAt.Get().Before(read.CreatedAt) && read.Error.Get() == nil, read)

	paths := []string{"config.version", "summary.runtime"}
	properties, _, err := client.MachinesAPI.GetMachineProperties(ctx, found.Id).Path(paths).Execute()
	check(err == nil, err)
	check(len(properties) == 2 && properties[paths[0]] != nil && properties[paths[1]] != nil, properties)

	_, _, err = client.MachinesAPI.GetMachine(ctx, "none-such").Execute()
	problem := refused(err)
	check(problem.Status == 404 && problem.Code == "not-found" && problem.Retry == "no", problem)
	check(strings.Contains(err.Error(), problem.Detail), err)

	ambiguous := otter.RevertRequest{Snapshot: otter.PtrString("kickstart")}
	_, _, err = client.SnapshotsAPI.RevertMachine(ctx, found.Id).RevertRequest(ambiguous).Execute()
	problem = refused(err)
	check(problem.Code == "ambiguous-name", problem)
	candidates := map[string]bool{}
	for _, candidate := range problem.Candidates {
		candidates[candidate.Id] = true
	}
	check(candidates[kickstart.Id], problem)

	on := otter.PowerRequest{Action: "on"}
	started, _, err := client.MachinesAPI.PowerMachine(ctx, found.Id).PowerRequest(on).Execute()
	check(err == nil, err)
	ended := follow(address, machines.Version, started.Id)
	check(ended.State == otter.JOBSTATE_SUCCEEDED && ended.Result.Get().Changed, ended)
	check(*ended.Result.Get().PowerState.Get() == otter.POWERSTATE_ON, ended)

	outcome, _, err := client.JobsAPI.WaitForJob(ctx, started.Id).Wait("1m").Execute()
	check(err == nil, err)
	check(reflect.DeepEqual(outcome, ended), outcome)
	after, _, err := client.MachinesAPI.GetMachine(ctx, found.Id).Execute()
	check(err == nil, err)
	check(*after.PowerState.Get() == otter.POWERSTATE_ON, after)

	// The generated call reads the stream to its end. `wait` ends the stream.
	text, _, err := client.EventsAPI.StreamEvents(ctx).Since(machines.Version).Job(started.Id).Wait("0s").Execute()
	check(err == nil, err)
	check(strings.Contains(text, `"type":"bye"`), text)

	// The client accepts a field that a later otter adds.
	fields, err := after.ToMap()
	check(err == nil, err)
	fields["added_later"] = true
	later, err := json.Marshal(fields)
	check(err == nil, err)
	check(json.Unmarshal(later, &otter.Machine{}) == nil, string(later))
	files(ctx, client)
}

// files uploads a file, finds it in the list, downloads it and deletes it.
func files(ctx context.Context, client *otter.APIClient) {
	const store, path = "name:isos", "by go.iso"
	content := bytes.Repeat([]byte("otter\x00\xff"), 40_000)
	body, err := os.CreateTemp("", "round-trip")
	check(err == nil, err)
	defer os.Remove(body.Name())
	_, err = body.Write(content)
	check(err == nil, err)
	_, err = body.Seek(0, io.SeekStart)
	check(err == nil, err)
	job, _, err := client.FilesAPI.PutFile(ctx, store).Path(path).Body(body).Execute()
	check(err == nil, err)
	hash := sha256.Sum256(content)
	check(*job.Result.Get().Sha256.Get() == hex.EncodeToString(hash[:]), job)

	listed, _, err := client.FilesAPI.ListFiles(ctx, store).Execute()
	check(err == nil, err)
	size := int64(-1)
	for _, file := range listed.Items {
		if file.Name == path {
			size = *file.Bytes.Get()
		}
	}
	check(size == int64(len(content)), listed)

	file, _, err := client.FilesAPI.GetFile(ctx, store).Path(path).Execute()
	check(err == nil, err)
	defer os.Remove(file.Name())
	read, err := io.ReadAll(file)
	check(err == nil && bytes.Equal(read, content), err)

	job, _, err = client.FilesAPI.DeleteFile(ctx, store).Path(path).Wait("1m").Execute()
	check(err == nil, err)
	check(job.State == otter.JOBSTATE_SUCCEEDED, job)
	_, _, err = client.FilesAPI.GetFile(ctx, store).Path(path).Execute()
	check(refused(err).Code == "not-found", err)
}

// follow reads the event stream until the job has ended, and returns the job.
func follow(address, since, job string) *otter.Job {
	query := url.Values{"since": {since}, "types": {"job.changed"}, "job": {job}}
	stream, err := http.Get(address + "/v1/events?" + query.Encode())
	check(err == nil, err)
	defer stream.Body.Close()
	lines := bufio.NewScanner(stream.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "data: ") {
			continue
		}
		data := strings.TrimPrefix(lines.Text(), "data: ")
		var event otter.Event
		check(json.Unmarshal([]byte(data), &event) == nil, data)
		object, err := json.Marshal(event.Object)
		check(err == nil && event.Type == "job.changed", data)
		job := &otter.Job{}
		check(json.Unmarshal(object, job) == nil, data)
		if job.FinishedAt.Get() != nil {
			return job
		}
	}
	log.Fatal("the stream ended before the job: ", lines.Err())
	return nil
}

func refused(err error) otter.Problem {
	var failure *otter.GenericOpenAPIError
	check(errors.As(err, &failure), err)
	problem, is := failure.Model().(otter.Problem)
	check(is, err)
	return problem
}

func check(holds bool, seen interface{}) {
	if !holds {
		_ = log.Output(2, format(seen))
		os.Exit(1)
	}
}

func format(seen interface{}) string {
	if err, is := seen.(error); is {
		return err.Error()
	}
	text, _ := json.Marshal(seen)
	return string(text)
}
