//! A round trip with the client that progenitor generates. The argument is the address of otter.

use futures_util::StreamExt;
use otter::types::{Event, Job, JobState, PowerRequest, PowerState, Problem, RevertRequest};
use otter::{Client, Error, ResponseValue};

mod otter {
    // The timeout of a call in seconds, including the time that otter waits. The default is 15.
    progenitor::generate_api!(
        spec = "../../../../openapi/otter-3.0.json",
        interface = Builder,
        timeout = 600
    );
}

type Failure = Box<dyn std::error::Error>;

const PATH: &str = "installed/updated/kickstart";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let address = std::env::args().nth(1).ok_or("the argument is otter's address")?;
    let client = Client::new(&address);

    let machines = client.list_machines().send().await?.into_inner();
    let staging =
        machines.items.iter().find(|machine| machine.name == "qubes-4.2-sdw-staging").unwrap();
    let mac = staging.network_cards[0].mac_address.clone().unwrap();

    let found = client.find_machine().mac(&mac).send().await?.into_inner();
    assert_eq!(
        (&found.id, found.power_state, found.free),
        (&staging.id, Some(PowerState::Off), true)
    );

    let snapshots = client.list_snapshots().machine(&found.id).send().await?.into_inner();
    let kickstart = snapshots.items.iter().find(|snapshot| snapshot.path == PATH).unwrap();

    let revert = RevertRequest { snapshot: Some(PATH.to_owned()), power_on: None };
    let job = client
        .revert_machine()
        .machine(&found.id)
        .body(revert)
        .wait("5m")
        .send()
        .await?
        .into_inner();
    let result = job.result.as_ref().unwrap();
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(
        (result.snapshot.as_ref(), result.power_state),
        (Some(&kickstart.id), Some(PowerState::Off))
    );

    let read = client.get_job().job(&job.id).send().await?.into_inner();
    assert_eq!(
        (&read.id, read.kind.as_str(), read.state),
        (&job.id, "snapshot.revert", JobState::Succeeded)
    );
    assert!(read.finished_at.unwrap() >= read.created_at && read.error.is_none());

    let paths = ["config.version", "summary.runtime"].map(str::to_owned);
    let properties =
        client.get_machine_properties().machine(&found.id).path(paths.to_vec()).send().await?;
    assert!(properties.len() == 2 && paths.iter().all(|path| properties.contains_key(path)));

    let problem = refused(client.get_machine().machine("none-such").send().await);
    assert_eq!(
        (problem.status, problem.code.as_str(), problem.retry.as_str()),
        (404, "not-found", "no")
    );

    let ambiguous = RevertRequest { snapshot: Some("kickstart".to_owned()), power_on: None };
    let problem = refused(client.revert_machine().machine(&found.id).body(ambiguous).send().await);
    assert_eq!(problem.code, "ambiguous-name");
    assert!(problem.candidates.iter().any(|candidate| candidate.id == kickstart.id));

    let on = PowerRequest { action: "on".to_owned(), force_after: None };
    let started = client.power_machine().machine(&found.id).body(on).send().await?.into_inner();
    let ended = follow(&client, &machines.version, &started.id).await?;
    let result = ended.result.as_ref().unwrap();
    assert_eq!((ended.state, result.changed), (JobState::Succeeded, true));
    assert_eq!(result.power_state, Some(PowerState::On));

    let outcome = client.wait_for_job().job(&started.id).wait("1m").send().await?.into_inner();
    assert_eq!((outcome.id, outcome.finished_at), (ended.id, ended.finished_at));
    let after = client.get_machine().machine(&found.id).send().await?.into_inner();
    assert_eq!(after.power_state, Some(PowerState::On));
    files(&client).await
}

/// Uploads a file, finds it in the list, downloads it and deletes it.
async fn files(client: &Client) -> Result<(), Failure> {
    const STORE: &str = "name:isos";
    const FILE: &str = "by rust.iso";
    let content = b"otter\0\xff".repeat(40_000);
    let put = client.put_file().datastore(STORE).path(FILE).body(content.clone());
    let job = put.send().await?.into_inner();
    assert_eq!(job.state, JobState::Succeeded);
    let hash = job.result.and_then(|result| result.sha256).ok_or("a result without a hash")?;
    assert_eq!(hash.len(), 64);

    let listed = client.list_files().datastore(STORE).send().await?.into_inner();
    let file = listed.items.iter().find(|file| file.name == FILE).ok_or("the file in the list")?;
    assert_eq!(serde_json::to_value(file.bytes)?, content.len());

    let read = client.get_file().datastore(STORE).path(FILE).send().await?;
    let mut stream = read.into_inner_stream();
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part?);
    }
    assert!(bytes == content);

    let delete = client.delete_file().datastore(STORE).path(FILE).wait("1m");
    assert_eq!(delete.send().await?.into_inner().state, JobState::Succeeded);
    match client.get_file().datastore(STORE).path(FILE).send().await {
        Err(Error::ErrorResponse(problem)) => assert_eq!(problem.code, "not-found"),
        _ => return Err("a file that was deleted is read".into()),
    }
    Ok(())
}

/// Reads the event stream until the job has ended, and returns the job.
async fn follow(client: &Client, since: &str, job: &str) -> Result<Job, Failure> {
    let events = client.stream_events().since(since).types("job.changed").job(job);
    let mut stream = events.send().await?.into_inner_stream();
    let mut text = Vec::new();
    while let Some(bytes) = stream.next().await {
        text.extend_from_slice(&bytes?);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            let event: Event = serde_json::from_slice(data)?;
            assert_eq!(event.type_, "job.changed");
            let object = event.object.ok_or("an event without its job")?;
            let job: Job = serde_json::from_value(serde_json::Value::Object(object.0))?;
            if job.finished_at.is_some() {
                return Ok(job);
            }
        }
    }
    Err("the stream ended before the job".into())
}

fn refused<T: std::fmt::Debug>(answer: Result<ResponseValue<T>, Error<Problem>>) -> Problem {
    match answer {
        Err(Error::ErrorResponse(problem)) => problem.into_inner(),
        other => panic!("{other:?}"),
    }
}
