//! Reads are answered from texts that are made once for each change. These tests show that no such
//! text outlives what it shows, and that what does not change is neither made nor copied again.

use otter::app::Settings;
use otter::domain::pool::{Pool, Pools};
use otter::simulator::{Pace, Scenario};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Allocations, Answer, Lab, LabOptions, encode, eventually};

/// A machine that is off.
const ID: &str = "16";

async fn lab() -> Lab {
    let settings = |settings: &mut Settings| {
        let pool = Pool { machines: vec!["qubes-*".parse().unwrap()], ..Pool::default() };
        settings.pools = Pools([("qubes".to_owned(), pool)].into());
    };
    Lab::with_options(LabOptions { settings, ..LabOptions::default() }).await
}

/// The machine, and the entity tag of the whole list. Checks that every read shows the machine
/// equally.
async fn shown(lab: &Lab) -> (Value, String) {
    let list = lab.get("/v1/machines").await.expect(200);
    let machine = lab.get(&format!("/v1/machines/{ID}")).await.expect(200).json;
    let name = encode(machine["name"].as_str().unwrap());
    let mac = machine["network_cards"][0]["mac_address"].as_str().unwrap();
    let of_list = |list: &Answer| {
        let items = list.json["items"].as_array().unwrap();
        items.iter().find(|item| item["id"] == ID).cloned()
    };
    assert_eq!(of_list(&list).as_ref(), Some(&machine));
    let part = lab.get(&format!("/v1/machines?name={name}&limit=1")).await.expect(200);
    assert_eq!(part.json["items"], json!([machine]));
    for query in [format!("name={name}"), format!("mac={mac}")] {
        let found = lab.get(&format!("/v1/machines/find?{query}")).await.expect(200);
        assert_eq!(found.json, machine, "{query}");
    }
    let tag = list.header("etag").unwrap().to_owned();
    // The texts in gzip are made of the same state.
    let unpacking = reqwest::Client::builder().no_proxy().gzip(true).build().unwrap();
    let unpacked = Answer::from_request(unpacking.get(lab.url("/v1/machines"))).await.expect(200);
    assert_eq!(unpacked.json["items"], list.json["items"]);
    lab.get_with("/v1/machines", &[("if-none-match", &tag)]).await.expect(304);
    (machine, tag)
}

/// Makes a change, and waits until one read shows it. Then checks that every read shows it.
async fn changes(
    lab: &Lab,
    first_read: &str,
    what: &str,
    change: impl AsyncFnOnce(),
    holds: impl Fn(&Value) -> bool,
) {
    let (before, tag) = shown(lab).await;
    assert!(!holds(&before), "{what}: {before}");
    change().await;
    eventually(what, async || {
        let json = lab.get(first_read).await.expect(200).json;
        match json["items"].as_array() {
            None => holds(&json),
            Some(items) => items.iter().any(|item| item["id"] == ID && holds(item)),
        }
    })
    .await;
    let changed = lab.get_with("/v1/machines", &[("if-none-match", &tag)]).await.expect(200);
    let (machine, now) = shown(lab).await;
    assert!(holds(&machine), "{what}: {machine}");
    assert_eq!(changed.header("etag"), Some(now.as_str()), "{what}");
}

#[tokio::test]
async fn every_read_shows_each_kind_of_change_as_soon_as_one_does() {
    let lab = lab().await;
    let path = format!("/v1/machines/{ID}");
    let quarantine = async |method: Method| {
        let request = lab.request(method, &format!("{path}/quarantine"));
        Answer::from_request(request.json(&json!({"reason": "its disk"}))).await.expect(200);
    };
    for read in [path.as_str(), "/v1/machines", "/v1/machines?name=qubes"] {
        let annotate = async |text: &str| lab.annotate(ID, text);
        let pool = format!("otter.pool: pool{}", read.len());
        changes(
            &lab,
            read,
            "an annotation",
            async || annotate(&pool).await,
            |machine| {
                machine["annotation"] == pool.as_str()
                    && machine["pools"].as_array().unwrap().len() == 2
            },
        )
        .await;
        changes(
            &lab,
            read,
            "a quarantine",
            async || quarantine(Method::PUT).await,
            |machine| machine["not_free_because"] == json!(["quarantined"]),
        )
        .await;
        changes(
            &lab,
            read,
            "its end",
            async || quarantine(Method::DELETE).await,
            |machine| machine["quarantine"].is_null() && machine["free"] == true,
        )
        .await;
        let mac = format!("00:50:56:00:00:{:02x}", read.len());
        let set_mac = async || {
            lab.control().mutate(|world| {
                world.machine_mut(ID).unwrap().network_cards[0].mac_address.clone_from(&mac);
            });
        };
        changes(&lab, read, "another address", set_mac, |machine| {
            machine["network_cards"][0]["mac_address"] == mac.as_str()
        })
        .await;
        let mut lease = Value::Null;
        let request = json!({"select": {"machine": ID}, "ttl": "30m"});
        let grant = async || lease = lab.post("/v1/leases", request).await.expect(201).json;
        changes(&lab, read, "a lease", grant, |machine| machine["lease"]["expires_at"].is_string())
            .await;
        let lease_path = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
        let (expires_at, secret) = (lease["expires_at"].clone(), lease["secret"].as_str().unwrap());
        let header = format!("{}.{secret}", lease["id"].as_str().unwrap());
        let renew = async || {
            let body = json!({"ttl": "1h"});
            let headers = [("otter-lease", header.as_str())];
            lab.post_with(&format!("{lease_path}/renew"), body, &headers).await.expect(200);
        };
        changes(&lab, read, "its renewal", renew, |machine| {
            machine["lease"]["expires_at"].as_str() > expires_at.as_str()
        })
        .await;
        let end = async || {
            let request = lab.request(Method::DELETE, &lease_path).header("otter-lease", &header);
            assert!(Answer::from_request(request).await.status < 300);
        };
        changes(&lab, read, "its end", end, |machine| {
            machine["lease"].is_null() && machine["free"] == true
        })
        .await;
    }
}

#[tokio::test]
async fn every_read_shows_a_job_and_its_end_as_soon_as_the_job_does() {
    let lab = Lab::with_options(LabOptions { pace: Pace::Stepped, ..LabOptions::default() }).await;
    let path = format!("/v1/machines/{ID}/power");
    for (action, power_state) in [("on", "on"), ("off", "off")] {
        let mut job = Value::Null;
        let start = async || {
            job = lab.post(&path, json!({"action": action})).await.expect(202).json;
        };
        changes(&lab, "/v1/machines", "a job", start, |machine| machine["active_job"].is_string())
            .await;
        let (machine, _) = shown(&lab).await;
        assert_eq!(machine["active_job"], job["id"]);
        let task = lab.wait_for_job_task(&job).await;
        lab.control().finish_task(&task);
        lab.wait_for_end(&job).await;
        let (machine, _) = shown(&lab).await;
        let state = (&machine["power_state"], &machine["active_job"]);
        assert_eq!(state, (&json!(power_state), &Value::Null));
    }
}

#[tokio::test]
async fn a_list_shows_added_renamed_and_removed_machines() {
    let lab = lab().await;
    let names = async || -> Vec<String> {
        let list = lab.get("/v1/machines").await.expect(200);
        let part = lab.get("/v1/machines?limit=1000").await.expect(200);
        assert_eq!(list.json["items"], part.json["items"]);
        let names: Vec<String> = list.items("name").into_iter().map(str::to_owned).collect();
        let mut sorted = names.clone();
        sorted.sort_by_key(|name| name.to_lowercase());
        assert_eq!(names, sorted);
        names
    };
    let before = names().await;
    lab.control().mutate(|world| "AAA first".clone_into(&mut world.machine_mut(ID).unwrap().name));
    lab.wait_for_field(ID, "name", json!("AAA first")).await;
    let renamed = names().await;
    assert_eq!((renamed.len(), renamed[0].as_str()), (before.len(), "AAA first"));
    assert_eq!(lab.get("/v1/machines/find?name=aaa%20F").await.expect(200).str("id"), ID);
    lab.get("/v1/machines/find?name=staging").await.problem(404, "not-found");
    lab.control().mutate(|world| drop(world.remove_machine(ID)));
    lab.wait_until_gone(ID).await;
    assert_eq!(names().await, renamed[1..]);
    lab.get("/v1/machines/find?name=aaa%20F").await.problem(404, "not-found");
}

/// A lab with this number of machines, without pauses.
async fn many(machines: usize) -> Lab {
    let pace = Pace::Auto { scale: 0.0 };
    let scenario = Scenario::generated(machines);
    Lab::with_options(LabOptions { scenario, pace, ..LabOptions::default() }).await
}

/// The least allocations of a few GETs. otter's own tasks can publish the same state again in
/// between, and then the next GET compares each machine.
async fn allocations(lab: &Lab, path: &str, header: (&str, &str)) -> (u16, Allocations) {
    let mut least = lab.count_get(path, &[header]).await;
    for _ in 0..5 {
        let again = lab.count_get(path, &[header]).await;
        least = if again.1.count < least.1.count { again } else { least };
    }
    least
}

/// The texts of 1,000 machines have more than a million bytes. A response with these texts copies
/// none of them, so it allocates as much as a response with ten machines.
#[tokio::test]
async fn a_list_that_did_not_change_allocates_the_same_with_ten_and_a_thousand_machines() {
    let (few, lots) = (many(10).await, many(1_000).await);
    let tag = lots.get("/v1/machines").await.expect(200).header("etag").unwrap().to_owned();
    let few_tag = few.get("/v1/machines").await.expect(200).header("etag").unwrap().to_owned();
    for headers in [("x", "y"), ("accept-encoding", "gzip"), ("accept-encoding", "zstd")] {
        let of_few = allocations(&few, "/v1/machines", headers).await;
        let of_lots = allocations(&lots, "/v1/machines", headers).await;
        assert_eq!((of_few.0, of_lots.0), (200, 200));
        let sent = lots.get_with("/v1/machines", &[headers]).await.bytes.len();
        let Allocations { count, bytes } = of_lots.1;
        assert!(count <= of_few.1.count + 1, "{headers:?}: {:?} {:?}", of_few.1, of_lots.1);
        // Each copy needs memory. The numbers of 1,000 machines have a few more digits.
        assert!(sent > 10_000, "{headers:?}: {sent} bytes");
        assert!(bytes < of_few.1.bytes + 1_000, "{headers:?}: {bytes} bytes for {sent}");
    }
    let known = allocations(&few, "/v1/machines", ("if-none-match", &few_tag)).await;
    let of_lots = allocations(&lots, "/v1/machines", ("if-none-match", &tag)).await;
    assert_eq!((known.0, of_lots.0), (304, 304));
    assert_eq!(known.1.count, of_lots.1.count);
    // With 1,000 machines, the version has a few more digits.
    assert!(of_lots.1.bytes < known.1.bytes + 100, "{known:?} {of_lots:?}");
}

#[tokio::test]
async fn a_search_and_one_machine_allocate_the_same_with_ten_and_a_thousand_machines() {
    let (few, lots) = (many(10).await, many(1_000).await);
    let machine = few.get("/v1/machines/7").await.expect(200).json;
    let (name, mac) =
        (machine["name"].as_str(), machine["network_cards"][0]["mac_address"].as_str());
    for path in [
        "/v1/machines/7".to_owned(),
        format!("/v1/machines/find?name={}", name.unwrap()),
        format!("/v1/machines/find?mac={}", mac.unwrap()),
        format!("/v1/machines/mac:{}", mac.unwrap()),
        format!("/v1/machines/name:{}", name.unwrap()),
        format!("/v1/machines/uuid:{}", machine["uuid"].as_str().unwrap()),
    ] {
        let none = ("x", "y");
        let (of_few, of_lots) =
            (allocations(&few, &path, none).await, allocations(&lots, &path, none).await);
        assert_eq!(of_few.0, 200, "{path}");
        // A hash and a position can have one more digit, and a search more candidates.
        let more = of_lots.1.bytes.saturating_sub(of_few.1.bytes);
        assert!(
            of_lots.1.count <= of_few.1.count + 2 && more < 2_000,
            "{path}: {of_few:?} {of_lots:?}"
        );
    }
}
