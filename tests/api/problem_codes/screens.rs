//! Codes of screens and consoles.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use otter::app::Settings;
use otter::simulator::{
    ConsoleQuirks, Disruption, DownMode, FirstUpdate, HostChange, HostdRestart,
};
use serde_json::json;

use super::{Call, Pair, Verdict, leases, plan, side_by_side, until_waiting};
use crate::conformance::without_capabilities;
use crate::harness::{Answer, Lab, LabOptions, eventually};
use crate::screens::viewer_client::{ViewerClient, viewer_path};

/// A machine that is on, and has a snapshot with memory.
const RUNNING: &str = "17";
/// A machine that is off.
const OFF: &str = "16";
const SNAPSHOT_PICTURE: &str = "/v1/machines/17/snapshots/logged%20in/screen.png";

/// Provokes codes while no machine may have a viewer.
pub async fn without_room(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |settings| settings.screens.max_viewers = 0)).await;
    side_by_side(pairs, async |pair| pair.call().send(&lab).await).await
}

/// Provokes codes while another viewer drives each machine.
pub async fn while_another_drives(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    side_by_side(pairs, async |pair| {
        let machine = format!("name:{}", pair.operation.id);
        let path = viewer_path(&machine, "?mode=drive");
        let _driver = ViewerClient::open(&lab, &path, &[]).await.unwrap();
        pair.call().send(&lab).await
    })
    .await
}

/// Provokes codes of calls that look at a screen. Each pair has a lab of its own.
pub async fn of_looks(pairs: Vec<Pair>) -> Vec<Verdict> {
    side_by_side(pairs, look).await
}

async fn look(pair: &Pair) -> Answer {
    let options = match pair.code.as_str() {
        "too-many-waits" if !pair.is_of("get_snapshot_picture") => {
            LabOptions { settings: |all| all.http.max_waits = 0, ..LabOptions::default() }
        }
        "too-many-consoles" => {
            LabOptions { settings: |all| all.screens.max_open = 0, ..LabOptions::default() }
        }
        "not-supported" => {
            LabOptions { wrap_backend: without_capabilities, ..LabOptions::default() }
        }
        "wait-timeout" if pair.is_of("get_screen_text") => {
            let settings: fn(&mut Settings) = |all| {
                all.screens.ocr_command = ["sh", "-c", "sleep 100"].map(str::to_owned).to_vec();
            };
            LabOptions { settings, ..LabOptions::default() }
        }
        _ => LabOptions::default(),
    };
    let lab = Lab::with_options(options).await;
    let control = lab.control();
    match pair.code.as_str() {
        "machine-leased" => return with_a_wrong_secret(&lab, pair).await,
        "invalid-power-state" => return call_on(&lab, pair, OFF).send(&lab).await,
        "machine-gone" => return gone_meanwhile(&lab, pair).await,
        "shutting-down" => return stopped_meanwhile(lab, pair).await,
        "console-unavailable" if pair.is_of("get_snapshot_picture") => {
            control.disrupt("/screen", 0, None, answered(500));
        }
        "console-unavailable" => {
            let first_update = FirstUpdate::UnknownEncoding;
            let quirks = ConsoleQuirks { first_update, ..ConsoleQuirks::default() };
            control.apply(HostChange::ConsoleQuirks(quirks));
        }
        "host-unreachable" => {
            let away = HostdRestart { down: Some(DownMode::Unavailable), drop_running: false };
            control.restart_hostd(away);
            until_host_is(&lab, &pair.code).await;
        }
        "host-login-refused" => {
            control.refuse_logins(true);
            control.expire_sessions();
            until_host_is(&lab, &pair.code).await;
        }
        "forbidden-by-host" => {
            control.disrupt("/screen", 0, None, answered(403));
        }
        "host-protocol" => {
            control.disrupt("/screen", 0, None, answered(200));
        }
        "too-many-waits" if pair.is_of("get_snapshot_picture") => {
            let silence = Disruption::NeverAnswer { run: false };
            control.disrupt("/screen", 0, None, silence);
            let mut reads: FuturesUnordered<_> =
                (0..=4 + 32).map(|_| lab.get(SNAPSHOT_PICTURE)).collect();
            return reads.next().await.unwrap();
        }
        "wait-timeout" if pair.is_of("get_screen_text") => {
            return behind_slow_readers(&lab, pair).await;
        }
        "wait-timeout" => {
            return call_on(&lab, pair, RUNNING).parameter("wait=1s").send(&lab).await;
        }
        _ => {}
    }
    if pair.is_of("get_snapshot_picture") {
        return lab.get(SNAPSHOT_PICTURE).await;
    }
    call_on(&lab, pair, RUNNING).send(&lab).await
}

/// Reads more texts than the program reads in the time of a call. Each is of a region with another
/// width, because reads of the same pixels are one.
async fn behind_slow_readers(lab: &Lab, pair: &Pair) -> Answer {
    let call = call_on(lab, pair, RUNNING);
    let calls: Vec<Call> =
        (1..=64).map(|width| call.clone().parameter(&format!("region=0,0,{width},64"))).collect();
    // The client of the lab gives up too early.
    let mut reads: FuturesUnordered<_> =
        calls.iter().map(|call| leases::send_to_service(&lab.service, call)).collect();
    let mut others = Vec::new();
    while let Some(answer) = reads.next().await {
        if answer.json["code"] == pair.code {
            return answer;
        }
        others.push((answer.status, answer.text));
    }
    panic!("no read is too late: {others:?}");
}

/// A call of the pair's operation on a machine.
fn call_on(lab: &Lab, pair: &Pair, machine: &str) -> Call {
    let name = lab.control().look(|world| world.machine(machine).unwrap().name.clone());
    let call = pair.operation.call(&name);
    // Of the conditions on a machine, this one looks at the screen.
    if pair.is_of("wait_for_machine") { call.parameter("until=screen:Applications") } else { call }
}

async fn with_a_wrong_secret(lab: &Lab, pair: &Pair) -> Answer {
    let ask = json!({"select": {"machine": OFF}, "ttl": "1m"});
    let lease = lab.post("/v1/leases", ask).await.expect(201);
    let wrong = format!("{}.{}", lease.str("id"), "0".repeat(64));
    if pair.is_of("get_snapshot_picture") {
        return lab.get_with(SNAPSHOT_PICTURE, &[("otter-lease", &wrong)]).await;
    }
    call_on(lab, pair, OFF).header("otter-lease", wrong).send(lab).await
}

/// Begins a call that the host does not answer.
async fn begin_in_silence(lab: &Lab, pair: &Pair) -> tokio::task::JoinHandle<Answer> {
    let quirks = ConsoleQuirks { silent: true, ..ConsoleQuirks::default() };
    lab.control().apply(HostChange::ConsoleQuirks(quirks));
    let wait = if pair.is_of("wait_for_screen") { "wait=1m" } else { "" };
    let call = call_on(lab, pair, RUNNING).parameter(wait).begin(lab);
    until_waiting(lab, 1).await;
    call
}

async fn gone_meanwhile(lab: &Lab, pair: &Pair) -> Answer {
    let call = begin_in_silence(lab, pair).await;
    lab.control().mutate(|world| world.remove_machine(RUNNING));
    call.await.unwrap()
}

async fn stopped_meanwhile(lab: Lab, pair: &Pair) -> Answer {
    let call = begin_in_silence(&lab, pair).await;
    lab.stop().await;
    call.await.unwrap()
}

/// An answer that is no picture.
fn answered(status: u16) -> Disruption {
    Disruption::Answer { status, content_type: "text/html", body: "<html>Hello</html>".to_owned() }
}

async fn until_host_is(lab: &Lab, code: &str) {
    eventually(code, async || lab.get("/readyz?host=true").await.json["code"] == code).await;
}
