//! ISOs in CD drives and boot orders: the jobs, the machine as readers see it, locked drives, rights,
//! and leases that prepare both and take them back.

use otter::simulator::FilesChange;
use otter::simulator::world::{BootDevice, FileContent};
use reqwest::Method;
use serde_json::{Value, json};

use super::tokens::Guarded;
use crate::harness::{Answer, Lab, eventually};

/// A machine that is off and has one empty drive.
const MACHINE: &str = "16";
/// A machine that is on and has one empty drive.
const RUNNING: &str = "17";
const ISO: &str = "[isos] iso/qubes.iso";
const OTHER: &str = "[isos] iso/other.iso";

async fn lab() -> Lab {
    let lab = Lab::start().await;
    place(&lab);
    lab
}

/// Puts both ISOs onto the host.
fn place(lab: &Lab) {
    for path in [ISO, OTHER] {
        let content = FileContent::of(b"an image");
        lab.control().change_files(FilesChange::Put { path: path.to_owned(), content });
    }
}

fn path(machine: &str, rest: &str) -> String {
    format!("/v1/machines/{machine}/{rest}")
}

async fn put(lab: &Lab, path: &str, body: Value) -> Answer {
    Answer::from_request(lab.request(Method::PUT, path).json(&body)).await
}

async fn insert(lab: &Lab, machine: &str, iso: &str) -> Answer {
    put(lab, &path(machine, "cdrom?wait=30s"), json!({"iso": iso})).await
}

async fn eject(lab: &Lab, machine: &str) -> Answer {
    let target = path(machine, "cdrom?wait=30s");
    Answer::from_request(lab.request(Method::DELETE, &target)).await
}

async fn set_boot(lab: &Lab, machine: &str, body: Value) -> Answer {
    put(lab, &path(machine, "boot?wait=30s"), body).await
}

async fn read(lab: &Lab, machine: &str) -> Value {
    lab.get(&format!("/v1/machines/{machine}")).await.expect(200).json
}

/// The names of the steps of a job.
fn step_names(job: &Value) -> Vec<&str> {
    job["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_iso_is_inserted_replaced_and_ejected() {
    let lab = lab().await;
    for machine in [MACHINE, RUNNING] {
        let job = insert(&lab, machine, ISO).await.expect(200).json;
        assert_eq!((&job["kind"], &job["machine"]), (&json!("machine.media"), &json!(machine)));
        assert_eq!(job["request"]["iso"], ISO);
        assert_eq!((&job["result"]["changed"], &job["target"]), (&json!(true), &Value::Null));
        assert_eq!(job["steps"][0]["name"], "set_media");
        let drive = read(&lab, machine).await["cdroms"][0].clone();
        assert_eq!((&drive["path"], &drive["datastore"]), (&json!(ISO), &json!("isos")));
        assert_eq!(drive["connected"], json!(machine == RUNNING), "{machine}");
        let again = insert(&lab, machine, ISO).await.expect(200).json;
        assert_eq!(again["result"]["changed"], false);
        insert(&lab, machine, OTHER).await.expect(200);
        assert_eq!(read(&lab, machine).await["cdroms"][0]["path"], OTHER);
        assert_eq!(eject(&lab, machine).await.expect(200).json["result"]["changed"], true);
        let drive = read(&lab, machine).await["cdroms"][0].clone();
        assert_eq!((&drive["path"], &drive["connected"]), (&Value::Null, &json!(false)));
        assert_eq!(eject(&lab, machine).await.expect(200).json["result"]["changed"], false);
    }
}

#[tokio::test]
async fn a_drive_that_the_guest_has_locked_is_opened() {
    let lab = lab().await;
    insert(&lab, RUNNING, ISO).await.expect(200);
    lab.control().mutate(|world| world.lock_drives(RUNNING, true));
    let job = eject(&lab, RUNNING).await.expect(200).json;
    assert_eq!(job["state"], "succeeded");
    assert_eq!(read(&lab, RUNNING).await["cdroms"][0]["path"], Value::Null);
    let answers = lab.get("/v1/jobs?kind=machine.answer").await.expect(200).json;
    assert_eq!(answers["items"].as_array().unwrap().len(), 1, "otter answered yes");
}

#[tokio::test]
async fn a_machine_without_a_drive_takes_no_iso() {
    let lab = lab().await;
    lab.control().mutate(|world| world.machine_mut(MACHINE).unwrap().cd_drives.clear());
    eventually("the drive to go", async || {
        read(&lab, MACHINE).await["cdroms"].as_array().unwrap().is_empty()
    })
    .await;
    insert(&lab, MACHINE, ISO).await.problem(409, "no-drive");
    eject(&lab, MACHINE).await.problem(409, "no-drive");
    let request = json!({
        "select": {"machine": MACHINE}, "ttl": "5m", "prepare": {"iso": ISO},
    });
    lab.post("/v1/leases", request)
        .await
        .problem(409, "no-drive")
        .points_at("/prepare/iso", "no-drive");
}

#[tokio::test]
async fn a_boot_order_names_the_devices_of_the_machine() {
    let lab = lab().await;
    assert_eq!(read(&lab, MACHINE).await["boot"], json!({"order": [], "delay": "0s"}));
    let body = json!({"order": ["network", "cdrom", "disk"], "delay": "5s"});
    let job = set_boot(&lab, MACHINE, body.clone()).await.expect(200).json;
    assert_eq!((&job["kind"], &job["request"]["boot"]), (&json!("machine.boot"), &body));
    assert_eq!(read(&lab, MACHINE).await["boot"], body);
    lab.control().look(|world| {
        let order = &world.machine(MACHINE).unwrap().boot.order;
        assert!(matches!(
            order[..],
            [BootDevice::Network(_), BootDevice::Cdrom, BootDevice::Disk(_)]
        ));
    });
    let same = set_boot(&lab, MACHINE, body).await.expect(200).json;
    assert_eq!(same["result"]["changed"], false);
    let kept = json!({"order": ["cdrom"]});
    set_boot(&lab, MACHINE, kept).await.expect(200);
    assert_eq!(read(&lab, MACHINE).await["boot"], json!({"order": ["cdrom"], "delay": "5s"}));
    set_boot(&lab, MACHINE, json!({"order": [], "delay": "0s"})).await.expect(200);
    assert_eq!(read(&lab, MACHINE).await["boot"], json!({"order": [], "delay": "0s"}));
}

#[tokio::test]
async fn invalid_media_and_orders_are_rejected_with_the_field() {
    let lab = lab().await;
    for (iso, status, code) in [
        ("", 400, "invalid-request"),
        ("qubes.iso", 400, "invalid-request"),
        ("[isos]", 400, "invalid-request"),
        ("[isos] ", 400, "invalid-request"),
        ("[isos] ../a.iso", 400, "invalid-request"),
        ("[isos] a%2fb.iso", 400, "invalid-request"),
        ("[isos] a\\b.iso", 400, "invalid-request"),
        ("[isos] a\u{7}.iso", 400, "invalid-request"),
        ("[isos] [isos] a.iso", 400, "invalid-request"),
        ("[none] a.iso", 404, "not-found"),
    ] {
        let answer = insert(&lab, MACHINE, iso).await;
        answer.problem(status, code);
    }
    for (body, pointer, code) in [
        (json!({"order": ["floppy"]}), "/order/0", "not-one-of"),
        (json!({"order": ["disk", "disk"]}), "/order/1", "repeated"),
        (json!({"order": ["disk", "cdrom", "network", "disk"]}), "/order/3", "repeated"),
        (json!({"order": [], "delay": "soon"}), "/delay", "not-a-duration"),
        (json!({"order": [], "delay": "11m"}), "/delay", "out-of-range"),
    ] {
        let problem = set_boot(&lab, MACHINE, body).await.problem(400, "invalid-request");
        problem.points_at(pointer, code);
    }
    assert_eq!(lab.control().calls("ReconfigVM_Task"), 0);
}

#[tokio::test]
async fn runners_insert_only_files_below_the_roots() {
    let guarded = Guarded::start().await;
    place(&guarded.lab);
    let content = FileContent::of(b"secret");
    let private = "[isos] iso-private/b.iso".to_owned();
    guarded.lab.control().change_files(FilesChange::Put { path: private.clone(), content });
    let ask = json!({"select": {"machine": MACHINE}, "ttl": "5m"});
    let lease = guarded.request("runner", Method::POST, "/v1/leases").json(&ask);
    let lease = Answer::from_request(lease).await.expect(201);
    let shown = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let call = async |role: &str, iso: &str| {
        let request = guarded.request(role, Method::PUT, &path(MACHINE, "cdrom?wait=30s"));
        let request = request.header("otter-lease", &shown);
        Answer::from_request(request.json(&json!({"iso": iso}))).await
    };
    call("viewer", ISO).await.problem(403, "forbidden");
    let refused = call("runner", &private).await.problem(403, "forbidden");
    assert!(refused.str("detail").contains("files.roots"), "{}", refused.text);
    call("runner", ISO).await.expect(200);
    call("operator", &private).await.expect(200);
}

#[tokio::test]
async fn a_lease_boots_from_its_iso_and_leaves_the_machine_as_it_was() {
    let lab = lab().await;
    set_boot(&lab, MACHINE, json!({"order": ["disk"], "delay": "1s"})).await.expect(200);
    insert(&lab, MACHINE, OTHER).await.expect(200);
    let before = read(&lab, MACHINE).await;
    let request = json!({
        "select": {"machine": MACHINE}, "ttl": "5m",
        "prepare": {
            "iso": ISO, "boot": {"order": ["cdrom", "disk"]}, "power": "on",
            "until": "power_state:on",
        },
    });
    let lease = lab.post("/v1/leases", request).await.expect(201).json;
    assert_eq!(lease["prepare"]["iso"], ISO);
    assert_eq!(lease["prepare"]["boot"], json!({"order": ["cdrom", "disk"], "delay": null}));
    let id = lease["id"].as_str().unwrap();
    let active = lab.get(&format!("/v1/leases/{id}/wait?wait=30s")).await.expect(200).json;
    let job = lab.get(&format!("/v1/jobs/{}", active["job"].as_str().unwrap())).await;
    let expected = ["set_media", "set_boot", "power_on", "wait_power"];
    assert_eq!(step_names(&job.expect(200).json), expected);
    let during = read(&lab, MACHINE).await;
    assert_eq!(during["cdroms"][0]["path"], ISO);
    assert_eq!(during["boot"], json!({"order": ["cdrom", "disk"], "delay": "1s"}));
    let secret = lease["secret"].as_str().unwrap();
    let release = lab
        .request(Method::DELETE, &format!("/v1/leases/{id}?wait=30s"))
        .header("otter-lease", format!("{id}.{secret}"));
    Answer::from_request(release).await.expect(200);
    let after = read(&lab, MACHINE).await;
    assert_eq!((&after["power_state"], &after["free"]), (&json!("off"), &json!(true)));
    assert_eq!((&after["cdroms"], &after["boot"]), (&before["cdroms"], &before["boot"]));
}

#[tokio::test]
async fn what_a_holder_put_in_is_taken_out_unless_the_release_reverts() {
    let lab = lab().await;
    for (release, steps) in [
        (json!({"power": "off"}), &["set_media"][..]),
        (json!({"snapshot": "installed"}), &["revert"]),
    ] {
        let request = json!({"select": {"machine": MACHINE}, "ttl": "5m", "release": release});
        let lease = lab.post("/v1/leases", request).await.expect(201).json;
        let (id, secret) = (lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
        let held = |method: Method, target: &str| {
            lab.request(method, target).header("otter-lease", format!("{id}.{secret}"))
        };
        let inserting = held(Method::PUT, &path(MACHINE, "cdrom?wait=30s"));
        Answer::from_request(inserting.json(&json!({"iso": ISO}))).await.expect(200);
        let target = format!("/v1/leases/{id}?wait=30s");
        let ended = Answer::from_request(held(Method::DELETE, &target)).await.expect(200).json;
        let job = lab.get(&format!("/v1/jobs/{}", ended["job"].as_str().unwrap())).await;
        assert_eq!(step_names(&job.expect(200).json), steps);
        let machine = read(&lab, MACHINE).await;
        assert_eq!((&machine["cdroms"][0]["path"], &machine["free"]), (&Value::Null, &json!(true)));
    }
}
