//! `GET /v1/events`: no change is missed, few are repeated, and a client that is too slow gets
//! `reset`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use otter::simulator::world::PowerState;
use serde_json::{Value, json};

use crate::harness::{ACCEPT_NDJSON, EventStream, Lab, RawConnection, StreamedEvent, machine_path};

/// The state of a client that listed and then streamed: the objects of each kind by id.
#[derive(Debug, Default, PartialEq)]
struct Model(BTreeMap<(&'static str, String), Value>);

impl Model {
    const KINDS: [&str; 4] = ["machine", "snapshot", "datastore", "job"];

    /// Reads all lists. Returns the objects and the version at which to start the stream.
    async fn list(lab: &Lab) -> (Self, String) {
        let mut model = Self::default();
        let machines = lab.get("/v1/machines").await.expect(200);
        let version = machines.str("version").to_owned();
        for found in machines.json["items"].as_array().unwrap() {
            model.put("machine", found);
            let id = found["id"].as_str().unwrap();
            let snapshots = lab.get(&format!("/v1/machines/{id}/snapshots")).await;
            // The machine may have been removed since.
            for snapshot in snapshots.json["items"].as_array().into_iter().flatten() {
                model.put("snapshot", snapshot);
            }
        }
        for (kind, path) in [("datastore", "/v1/datastores"), ("job", "/v1/jobs?limit=1000")] {
            for object in lab.get(path).await.expect(200).json["items"].as_array().unwrap() {
                model.put(kind, object);
            }
        }
        (model, version)
    }

    fn put(&mut self, kind: &'static str, object: &Value) {
        self.0.insert((kind, object["id"].as_str().unwrap().to_owned()), object.clone());
    }

    fn apply(&mut self, event: &StreamedEvent) {
        let Some((kind, what)) = event.kind().split_once('.') else { return };
        let Some(kind) = Self::KINDS.into_iter().find(|known| *known == kind) else { return };
        if what == "removed" {
            self.0.remove(&(kind, event.json["id"].as_str().unwrap().to_owned()));
        } else {
            self.put(kind, &event.json["object"]);
        }
    }

    /// The differences between both models, as text for a failure message.
    fn differs(&self, other: &Self) -> Vec<String> {
        let keys = self.0.keys().chain(other.0.keys());
        let different = keys.filter(|key| self.0.get(key) != other.0.get(key));
        different
            .map(|key| format!("{key:?}: {:?} or {:?}", self.0.get(key), other.0.get(key)))
            .collect()
    }
}

/// Makes many changes of all kinds at the same time: annotations, names, machines, snapshots and
/// jobs.
async fn churn(lab: &Lab) {
    for round in 0..12 {
        lab.control().mutate(|world| {
            world.machine_mut("16").unwrap().annotation = format!("round {round}");
            world.machine_mut("21").unwrap().name = format!("scratch {round}");
            let snapshot = &mut world.machine_mut("16").unwrap().snapshots[0];
            snapshot.name = format!("installed {round}");
            let passing = world.machine_mut("22").unwrap();
            if let Some(last) = passing.snapshots.last().cloned() {
                passing.remove_snapshot(&last.id, true);
            } else {
                passing.add_snapshot(None, "passing", PowerState::Off, Timestamp::UNIX_EPOCH);
            }
            let mut guest = world.machine("22").unwrap().clone();
            guest.id = format!("9{}", round % 3);
            guest.name = format!("guest {round}");
            guest.snapshots.clear();
            if world.remove_machine(&guest.id).is_none() {
                world.add_machine(guest);
            }
            let datastore = world.datastores().next().unwrap().id.clone();
            world.datastore_mut(&datastore).unwrap().free_bytes -= 1;
        });
        let action = if round % 2 == 0 { "off" } else { "on" };
        lab.power_and_wait(lab.machines.running, action).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn listing_then_streaming_has_no_gap_under_churn() {
    let lab = Lab::start().await;
    let clients = async {
        let mut clients = Vec::new();
        for _ in 0..8 {
            let (model, version) = Model::list(&lab).await;
            let events = EventStream::open(&lab, &format!("?since={version}")).await;
            clients.push((model, events));
        }
        clients
    };
    let (mut clients, ()) = tokio::join!(clients, churn(&lab));
    // Nothing changes after the machine is visible without its last job.
    lab.wait_for_field(
        lab.machine(lab.machines.running).await["id"].as_str().unwrap(),
        "active_job",
        json!(null),
    )
    .await;
    let mut marks = EventStream::open(&lab, "?machine=16&types=machine.changed").await;
    for (client, (model, events)) in clients.iter_mut().enumerate() {
        let mut differs = Vec::new();
        // A list can show a change whose event is published later, after the mark.
        for round in 0..20 {
            let mark = format!("mark {round} for client {client}");
            lab.annotate("16", &mark);
            let marked =
                marks.until(|event| event.json["object"]["annotation"] == mark.as_str()).await;
            let last = marked.last().unwrap().version();
            while events.version != last {
                let event = events.next().await.expect("no end before the last event");
                assert_ne!(event.kind(), "reset");
                model.apply(&event);
                event.version().clone_into(&mut events.version);
            }
            differs = model.differs(&Model::list(&lab).await.0);
            if differs.is_empty() {
                break;
            }
        }
        assert_eq!(differs, Vec::<String>::new());
    }
}

#[tokio::test]
async fn versions_only_grow_and_each_event_is_sent_once() {
    let lab = Lab::start().await;
    let mut events = EventStream::open(&lab, "").await;
    let mut second =
        EventStream::open_with(&lab, &format!("?since={}", events.version), &[ACCEPT_NDJSON]).await;
    churn(&lab).await;
    lab.annotate("16", "the end");
    let is_last = |event: &StreamedEvent| {
        event.is_about("machine.changed", "16") && event.json["object"]["annotation"] == "the end"
    };
    let number =
        |event: &StreamedEvent| event.version().rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    let all = events.until(is_last).await;
    let numbers: Vec<u64> = all.iter().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert!(all.iter().all(|event| event.id.is_some()), "each event has an id");
    // Both formats have the same events. A stream can lack an event whose object was removed before
    // the event was written.
    let identity_of =
        |event: &StreamedEvent| ["at", "type", "id"].map(|field| event.json[field].clone());
    let by_version: BTreeMap<&str, _> =
        all.iter().map(|event| (event.version(), identity_of(event))).collect();
    let again = second.until(is_last).await;
    let common: Vec<&StreamedEvent> =
        again.iter().filter(|again| by_version.contains_key(again.version())).collect();
    assert!(common.len() > all.len() / 2, "{} of {}", common.len(), all.len());
    for again in common {
        assert_eq!(by_version[again.version()], identity_of(again));
    }
}

#[tokio::test]
async fn a_job_and_its_machine_are_reported_from_acceptance_to_end() {
    let lab = Lab::stepped().await;
    let id = lab.machine(lab.machines.running).await["id"].as_str().unwrap().to_owned();
    let mut events = EventStream::open(&lab, &format!("?machine={id}")).await;
    let job = lab.start_power(lab.machines.running, "off").await;
    let job_id = job["id"].as_str().unwrap();
    let first = events.event().await;
    assert!(first.is_about("job.changed", job_id), "{first:?}");
    events
        .until(|event| {
            event.is_about("machine.changed", &id)
                && event.json["object"]["active_job"] == job["id"]
        })
        .await;
    events
        .until(|event| {
            event.is_about("job.changed", job_id) && event.json["object"]["state"] == "running"
        })
        .await;
    lab.wait_for_job_task(&job).await;
    // Two more jobs queue. The last one is reported again when its position changes.
    let second = lab.start_power(lab.machines.running, "on").await;
    let second_id = second["id"].as_str().unwrap();
    let received = events.until(|event| event.is_about("job.changed", second_id)).await;
    assert_eq!(received.last().unwrap().json["object"]["position"], 1);
    let third = lab.start_power(lab.machines.running, "off").await;
    let third_id = third["id"].as_str().unwrap();
    events
        .until(|event| {
            event.is_about("job.changed", third_id) && event.json["object"]["position"] == 2
        })
        .await;
    let task = lab.wait_for_machine_task(&id).await;
    lab.control().finish_task(&task);
    events
        .until(|event| {
            event.is_about("job.changed", job_id) && event.json["object"]["state"] == "succeeded"
        })
        .await;
    events
        .until(|event| {
            event.is_about("job.changed", third_id) && event.json["object"]["position"] == 1
        })
        .await;
    for job in [&second, &third] {
        lab.wait_for_job_task(job).await;
        let task = lab.wait_for_machine_task(&id).await;
        lab.control().finish_task(&task);
    }
    let all = events
        .until(|event| {
            event.is_about("machine.changed", &id) && event.json["object"]["active_job"].is_null()
        })
        .await;
    let ended = all.iter().rposition(|event| event.is_about("job.changed", third_id)).unwrap();
    assert_eq!(all[ended].json["object"], lab.wait_for_end(&third).await);
}

#[tokio::test]
async fn a_question_is_reported_as_the_obstacle_of_its_job() {
    let lab = Lab::stepped().await;
    let id = lab.machine(lab.machines.running).await["id"].as_str().unwrap().to_owned();
    let job = lab.start_power(lab.machines.running, "reset").await;
    lab.wait_for_job_task(&job).await;
    let mut events =
        EventStream::open(&lab, &format!("?job={}", job["id"].as_str().unwrap())).await;
    lab.control().mutate(|world| {
        let question = world.machine("51").unwrap().question.clone();
        world.machine_mut(&id).unwrap().question = question;
    });
    events.until(|event| event.json["object"]["blocked_by"]["kind"] == "question").await;
    lab.control().mutate(|world| world.machine_mut(&id).unwrap().question = None);
    events.until(|event| event.json["object"]["blocked_by"].is_null()).await;
}

#[tokio::test]
async fn a_quiet_filtered_stream_resumes_after_the_history_has_rolled_over() {
    let lab = Lab::with_settings(|settings| {
        settings.event_stream.events = 16;
        settings.http.bookmark_interval = Duration::from_millis(20);
    })
    .await;
    let begun = lab.get("/v1/machines").await.str("version").to_owned();
    let mut quiet = EventStream::open(&lab, "?machine=22").await;
    for round in 0..40 {
        lab.annotate("16", &round.to_string());
        lab.wait_for_field("16", "annotation", json!(round.to_string())).await;
    }
    let now = lab.get("/v1/machines").await.str("version").to_owned();
    let seen = quiet.until(|event| event.version() == now).await;
    assert!(seen.iter().all(StreamedEvent::is_bookmark), "{seen:?}");
    let last = seen.last().unwrap().id.clone().unwrap();
    drop(quiet);
    lab.annotate("22", "changed meanwhile");
    lab.wait_for_field("22", "annotation", json!("changed meanwhile")).await;
    let mut again = EventStream::open_with(&lab, "?machine=22", &[("last-event-id", &last)]).await;
    let first = again.event().await;
    assert!(first.is_about("machine.changed", "22"), "{first:?}");
    // The history no longer has the version at which the stream began.
    let mut late = EventStream::open(&lab, &format!("?machine=22&since={begun}")).await;
    assert_eq!(late.event().await.kind(), "reset");
}

#[tokio::test]
async fn a_slow_client_gets_reset() {
    const ROUNDS: usize = 32;
    let lab = Lab::with_settings(|settings| settings.event_stream.max_unread = 8).await;
    let version = lab.get("/v1/machines").await.str("version").to_owned();
    let mut slow = RawConnection::open(lab.address).await;
    slow.send(
        b"GET /v1/events?types=machine.changed HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    )
    .await;
    // Another client reads all events that the slow one does not read.
    let mut quick =
        EventStream::open(&lab, &format!("?since={version}&types=machine.changed")).await;
    let large = "x".repeat(512 * 1024);
    // More events than the socket buffers hold, and more than the history keeps.
    for round in 0..ROUNDS {
        let text = format!("{round} {large}");
        lab.annotate("16", &text);
        let is_last = |event: &StreamedEvent| {
            event.is_about("machine.changed", "16") && event.json["object"]["annotation"] == text
        };
        let seen = quick.until(is_last).await;
        assert!(seen.iter().all(|event| event.kind() != "reset"));
    }
    let all = String::from_utf8(slow.until_closed().await).unwrap();
    let kinds: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let (last, before) = kinds.split_last().unwrap();
    assert_eq!(*last, "reset", "{kinds:?}");
    assert!(
        before.len() < ROUNDS && before.iter().all(|kind| *kind == "machine.changed"),
        "{kinds:?}"
    );
    assert!(all.ends_with("\r\n0\r\n\r\n"), "the body ends correctly");
    let metrics =
        lab.request(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("otter_event_stream_resets_total{reason=\"too_slow\"} 1"),
        "{metrics}"
    );
    // The client continues from the version in `reset`.
    let reset = all.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap();
    let mut again = EventStream::open_with(&lab, "", &[("last-event-id", reset)]).await;
    lab.annotate("16", "short");
    assert!(again.event().await.is_about("machine.changed", "16"));
}

#[tokio::test]
async fn initial_sends_all_objects_then_synced_then_changes() {
    let lab = Lab::stepped().await;
    let job = lab.start_power(lab.machines.running, "off").await;
    lab.wait_for_job_task(&job).await;
    for accept in [ACCEPT_NDJSON, ("accept", "text/event-stream")] {
        let mut events = EventStream::open_with(&lab, "?initial=true", &[accept]).await;
        let all = events.until(|event| event.kind() == "synced").await;
        let mut model = Model::default();
        let (synced, objects) = all.split_last().unwrap();
        assert_eq!(objects.iter().filter(|event| event.kind() == "session.changed").count(), 1);
        for event in objects {
            assert_eq!(event.id, None, "a client that reconnects before `synced` starts again");
            model.apply(event);
        }
        assert_eq!(synced.version(), events.version);
        let (truth, _) = Model::list(&lab).await;
        assert_eq!(model.differs(&truth), Vec::<String>::new());
        lab.annotate("22", accept.1);
        let live = events.until(|event| event.is_about("machine.changed", "22")).await;
        assert_eq!(live.last().unwrap().json["object"]["annotation"], accept.1);
    }
}

#[tokio::test]
async fn initial_applies_the_filters() {
    let lab = Lab::start().await;
    lab.post_with(
        &machine_path(lab.machines.running, "/power?wait=30s"),
        json!({"action": "off"}),
        &[("otter-reference", "ci/1")],
    )
    .await
    .expect(200);
    let snapshot = async |query: &str| -> Vec<(String, Value)> {
        let mut events = EventStream::open(&lab, &format!("?initial=true&wait=0s&{query}")).await;
        let all = events.rest().await;
        let kinds: Vec<&str> = all.iter().rev().take(2).map(StreamedEvent::kind).collect();
        assert_eq!(kinds, ["bye", "synced"]);
        all[..all.len() - 2]
            .iter()
            .map(|event| (event.kind().to_owned(), event.json["id"].clone()))
            .collect()
    };
    let of_machine = snapshot("machine=16").await;
    assert_eq!(of_machine[0], ("machine.changed".to_owned(), json!("16")));
    assert!(
        of_machine.len() > 3 && of_machine[1..].iter().all(|(kind, _)| kind == "snapshot.changed")
    );
    let datastores = snapshot("types=datastore.changed").await;
    assert!(datastores.len() > 1 && datastores.iter().all(|(kind, _)| kind == "datastore.changed"));
    let ended = lab.get("/v1/jobs").await.json["items"][0]["id"].clone();
    assert_eq!(snapshot("types=job.changed").await, [], "no job is running");
    assert_eq!(snapshot("reference=ci%2F1").await, [("job.changed".to_owned(), ended.clone())]);
    assert_eq!(snapshot("reference=ci").await, []);
    let named = snapshot(&format!("job={}", ended.as_str().unwrap())).await;
    assert_eq!(named, [("job.changed".to_owned(), ended)]);
    let lease_request = json!({"select": {"machine": "32"}, "ttl": "5m"});
    let lease = lab.post("/v1/leases", lease_request).await.expect(201).json["id"].clone();
    let of_lease = snapshot(&format!("lease={}", lease.as_str().unwrap())).await;
    assert_eq!(of_lease, [("lease.changed".to_owned(), lease)]);
}

#[tokio::test]
async fn a_stream_resumes_where_it_broke() {
    let lab = Lab::start().await;
    let mut events = EventStream::open(&lab, "?machine=22").await;
    lab.annotate("22", "one");
    let one = events.event().await;
    drop(events);
    lab.annotate("22", "two");
    lab.wait_for_field("22", "annotation", json!("two")).await;
    for (query, header) in [
        (format!("?machine=22&since={}", one.version()), None),
        ("?machine=22".to_owned(), Some(one.version())),
        // The header has priority over `since`. A stream that can resume does not send the objects
        // first.
        (format!("?machine=22&initial=true&since={}", "0123456789ab-7"), Some(one.version())),
    ] {
        let headers: Vec<(&str, &str)> =
            header.into_iter().map(|id| ("last-event-id", id)).collect();
        let mut again = EventStream::open_with(&lab, &query, &headers).await;
        let two = again.event().await;
        assert!(two.is_about("machine.changed", "22") && two.version() != one.version(), "{two:?}");
        assert_eq!(two.json["object"]["annotation"], "two");
    }
    let mut after = EventStream::open(
        &lab,
        &format!("?machine=22&since={}&wait=0s", lab.get("/v1/machines").await.str("version")),
    )
    .await;
    let rest = after.rest().await;
    assert_eq!(rest.iter().map(StreamedEvent::kind).collect::<Vec<_>>(), ["bye"]);
}

#[tokio::test]
async fn unknown_versions_are_reset_within_the_stream() {
    let lab = Lab::start().await;
    let epoch = lab.get("/v1/machines").await.str("version").split_once('-').unwrap().0.to_owned();
    for foreign in
        ["0123456789ab-7", &format!("{epoch}-999999999"), &format!("{epoch}-18446744073709551615")]
    {
        let mut events = EventStream::open(&lab, &format!("?machine=22&since={foreign}")).await;
        let reset = events.event().await;
        assert_eq!((reset.kind(), reset.version()), ("reset", events.version.as_str()));
        assert_eq!(reset.id.as_deref(), Some(events.version.as_str()));
        // The stream continues from the version in `reset`.
        lab.annotate("22", foreign);
        let live = events.event().await;
        assert!(live.is_about("machine.changed", "22"));
        assert_eq!(live.json["object"]["annotation"], foreign);
        let query = format!("?machine=22&initial=true&wait=0s&since={foreign}");
        let objects = EventStream::open(&lab, &query).await.rest().await;
        let kinds: Vec<&str> = objects.iter().map(StreamedEvent::kind).collect();
        assert_eq!(kinds, ["reset", "machine.changed", "synced", "bye"]);
        assert_eq!(objects[0].id, None, "the objects follow");
        assert!(objects[2].id.is_some());
    }
}

#[tokio::test]
async fn filters_select_by_identity() {
    let lab = Lab::start().await;
    let target = lab.machine(lab.machines.running).await["id"].as_str().unwrap().to_owned();
    let since = lab.get("/v1/machines").await.str("version").to_owned();
    let power = |action: &str, reference: &'static str| {
        let (path, body) =
            (machine_path(lab.machines.running, "/power?wait=30s"), json!({"action": action}));
        let lab = &lab;
        async move {
            lab.post_with(&path, body, &[("otter-reference", reference)]).await.expect(200).json
        }
    };
    let first = power("off", "ci/1").await;
    let second = power("on", "ci/2").await;
    lab.annotate("16", "noise");
    lab.wait_for_field("16", "annotation", json!("noise")).await;
    let objects_of = async |query: &str| -> Vec<(String, Value)> {
        let all =
            EventStream::open(&lab, &format!("?since={since}&wait=0s&{query}")).await.rest().await;
        assert_eq!(all.last().unwrap().kind(), "bye");
        all[..all.len() - 1]
            .iter()
            .map(|event| (event.kind().to_owned(), event.json["id"].clone()))
            .collect()
    };
    let of = |job: &Value| ("job.changed".to_owned(), job["id"].clone());
    for (query, job) in [
        (format!("job={}", first["id"].as_str().unwrap()), &first),
        ("reference=ci%2F2".to_owned(), &second),
        (format!("types=job.changed&machine={target}&reference=ci/2"), &second),
    ] {
        let events = objects_of(&query).await;
        assert!(
            events.len() > 2 && events.iter().all(|event| *event == of(job)),
            "{query}: {events:?}"
        );
    }
    let of_machine = objects_of(&format!(
        "machine={}",
        crate::harness::encode(&format!("name:{}", lab.machines.running))
    ))
    .await;
    assert!(
        of_machine.contains(&of(&first))
            && of_machine.contains(&("machine.changed".to_owned(), json!(target)))
    );
    assert!(
        of_machine.iter().all(|(kind, id)| kind == "job.changed" || *id == target),
        "{of_machine:?}"
    );
    assert_eq!(objects_of("machine=16&types=job.changed").await, []);
    lab.get("/v1/events?machine=none-such").await.problem(404, "not-found");
    let lease_request = json!({"select": {"machine": "32"}, "ttl": "5m"});
    let lease = lab.post("/v1/leases", lease_request).await.expect(201).json["id"].clone();
    let of_lease = objects_of(&format!("lease={}", lease.as_str().unwrap())).await;
    let is_of_it = |(kind, id): &(String, Value)| kind == "lease.changed" && *id == lease;
    assert!(!of_lease.is_empty() && of_lease.iter().all(is_of_it), "{of_lease:?}");
    let session = objects_of("types=session.changed").await;
    assert_eq!(session, [], "the session has not changed");
}

#[tokio::test]
async fn removed_objects_and_the_session_are_reported() {
    let lab = Lab::start().await;
    let mut events = EventStream::open(&lab, "").await;
    lab.control().mutate(|world| world.remove_machine("16"));
    let all = events.until(|event| event.is_about("machine.removed", "16")).await;
    let gone = all.iter().filter(|event| event.kind() == "snapshot.removed").count();
    assert!(gone > 2, "its snapshots first: {all:?}");
    lab.control().mutate(|world| {
        let id = world.datastores().next().unwrap().id.clone();
        world.remove_datastore(&id)
    });
    events.until(|event| event.kind() == "datastore.removed").await;
    // The snapshots of the removed machine are removed from the stream too, and no later event has
    // them.
    lab.control().restart_hostd(otter::simulator::HostdRestart {
        down: Some(otter::simulator::DownMode::Refuse),
        drop_running: false,
    });
    events
        .until(|event| event.kind() == "session.changed" && event.json["object"]["state"] == "away")
        .await;
    lab.control().resume();
    events
        .until(|event| {
            event.kind() == "session.changed" && event.json["object"]["state"] == "connected"
        })
        .await;
}

#[tokio::test]
async fn a_renamed_snapshot_moves_the_paths_below_it() {
    let lab = Lab::start().await;
    let mut events = EventStream::open(&lab, "?machine=16&types=snapshot.changed").await;
    lab.control().mutate(|world| {
        let snapshots = &mut world.machine_mut("16").unwrap().snapshots;
        assert!(snapshots.len() > 2);
        "renamed".clone_into(&mut snapshots[0].name);
    });
    let snapshot_count = lab.get("/v1/machines/16/snapshots").await.items("id").len();
    let mut paths = Vec::new();
    while paths.len() < snapshot_count {
        let path = events.event().await.json["object"]["path"].as_str().unwrap().to_owned();
        assert!(path.starts_with("renamed"), "{path}");
        paths.push(path);
    }
}
