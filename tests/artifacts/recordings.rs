//! Recordings of screens and serial ports: what they show, what they leave out, how they end, and
//! how they go on after a restart of otter.

use std::io::Cursor;
use std::path::Path;

use otter::clock::Clock;
use otter::domain::pool::Pool;
use otter::domain::recording::Record;
use otter::simulator::{PortChange, ScreenStage};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Held, MACHINE};
use crate::harness::{Answer, Lab, LabOptions, eventually};
use crate::screens::{decode, guest_picture};

pub type Picture = (u32, u32, Vec<[u8; 3]>);

/// What the guest writes to its serial port.
pub const LINE: &str = "the build passed\r\n";

/// Asks for a machine that is on, and for a recording of its screen.
pub fn recorded() -> Value {
    json!({"prepare": {"power": "on"}, "record": {"screen": true}})
}

async fn recording(lab: &Lab, lease: &Held) -> Value {
    lab.get(&lease.path()).await.expect(200).json["recording"].clone()
}

/// Shows a stage, and waits until it is recorded. Returns the picture.
pub async fn record_stage(lab: &Lab, lease: &Held, stage: ScreenStage) -> Picture {
    lab.control().show_screen(MACHINE, stage);
    // The desktop has a clock, so only the size is certain.
    let is_shown = async || {
        let picture = lab.get(&format!("/v1/machines/{MACHINE}/screen.png")).await.expect(200);
        let (shown, guest) = (decode(&picture.bytes), guest_picture(lab, MACHINE));
        shown == guest
            || (stage == ScreenStage::Desktop && (shown.0, shown.1) == (guest.0, guest.1))
    };
    eventually("the stage to be shown", is_shown).await;
    wait_until_recorded(lab, lease).await;
    guest_picture(lab, MACHINE)
}

/// Takes a lease with a recording of the port `ttyS0`, once the guest has started. [`LINE`] is
/// recorded last.
pub async fn record_port(lab: &Lab, state: &Path) -> Held {
    let prepare = json!({"power": "on", "until": "serial:login:"});
    let ask = json!({"prepare": prepare, "record": {"serial": ["ttyS0"]}});
    let lease = Held::take(lab, ask).await;
    let file = state.join("recordings").join(&lease.id).join("ttyS0.rec");
    // A line can reach otter in two parts, so the guest writes until one comes whole.
    eventually("the output to be recorded", async || {
        let line = PortChange::Write(LINE.into());
        lab.control().change_serial_port(MACHINE, "ttyS0", line);
        let recorded = std::fs::read(&file).unwrap_or_default();
        recorded.windows(LINE.len()).any(|part| part == LINE.as_bytes())
    })
    .await;
    lease
}

/// Waits until everything that otter has seen of the screen until now is recorded.
async fn wait_until_recorded(lab: &Lab, lease: &Held) {
    let now = Clock::system().now();
    lab.wait_until(&lease.path(), |lease| {
        let synced_at = lease["recording"]["synced_at"].as_str();
        synced_at.is_some_and(|at| at.parse::<jiff::Timestamp>().unwrap() > now)
    })
    .await;
}

/// The frames of an animated PNG as a browser shows them, on their canvas, with blue first, and the
/// delay of each in milliseconds.
pub fn frames(file: &[u8]) -> Vec<(Picture, u64)> {
    let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
    let (width, height) = (reader.info().width, reader.info().height);
    let count = reader.info().animation_control.expect("an animated PNG").num_frames;
    let mut canvas = vec![[0; 3]; (width * height) as usize];
    let mut frames = Vec::new();
    for _ in 0..count {
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let control = *reader.info().frame_control.as_ref().unwrap();
        let row = control.width as usize;
        for (at, rgb) in pixels.as_chunks::<3>().0.iter().enumerate() {
            if at / row >= control.height as usize {
                break;
            }
            let y = control.y_offset as usize + at / row;
            let x = control.x_offset as usize + at % row;
            canvas[y * width as usize + x] = [rgb[2], rgb[1], rgb[0]];
        }
        let millis = u64::from(control.delay_num) * 1_000 / u64::from(control.delay_den);
        frames.push(((width, height, canvas.clone()), millis));
    }
    frames
}

/// Whether a frame shows a picture in its left upper corner. The rest of the canvas is ignored.
pub fn shows((width, _, canvas): &Picture, (part_width, part_height, part): &Picture) -> bool {
    let (width, part_width) = (*width as usize, *part_width as usize);
    (0..*part_height as usize)
        .all(|y| canvas[y * width..][..part_width] == part[y * part_width..][..part_width])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_shows_what_the_screen_showed() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, recorded()).await;
    let shown = lab.get(&lease.path()).await.expect(200).json;
    assert_eq!(shown["record"], json!({"screen": true, "serial": []}));
    let login = record_stage(&lab, &lease, ScreenStage::Login).await;
    let running = recording(&lab, &lease).await;
    assert_eq!((&running["state"], &running["screen"]), (&json!("recording"), &json!(true)));
    let screen = format!("/v1/machines/{MACHINE}/screen");
    let screen = lab.get(&screen).await.expect(200).json;
    assert_eq!(screen["recording"], lease.id.as_str());
    assert_eq!(screen["viewers"], json!([]), "the recorder is no viewer");
    // The desktop has a clock, so only its size is known.
    let (width, height, _) = record_stage(&lab, &lease, ScreenStage::Desktop).await;
    record_stage(&lab, &lease, ScreenStage::Login).await;
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    let names = ["screen-last.png", "screen-last.txt", "screen.apng"];
    assert_eq!(lease.names(&lab).await, names);
    let frames = frames(&lease.bytes(&lab, "screen.apng").await);
    assert_eq!((frames[0].0.0, frames[0].0.1), (width, height), "the largest size");
    let logins = frames.iter().filter(|(frame, _)| shows(frame, &login)).count();
    assert!((2..frames.len()).contains(&logins), "{logins} of {}", frames.len());
    let last = decode(&lease.bytes(&lab, "screen-last.png").await);
    assert!(last == login);
    let history = lab.get(&lease.path()).await.expect(200).json["history"].to_string();
    assert!(history.contains("recording: screen"), "{history}");
    let audit = lab.get("/v1/audit?action=recording.started,recording.ended").await.expect(200);
    assert_eq!(audit.items("action"), ["recording.ended", "recording.started"]);
    let metrics = lab.get("/metrics").await.text;
    assert!(metrics.contains("otter_recordings_open 0\n"), "{metrics}");
    assert!(metrics.contains("otter_recordings_ended_total{reason=\"lease-ended\"} 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_records_its_leases_unless_they_say_otherwise() {
    let lab = Lab::with_settings(|settings| {
        let pool = Pool {
            machines: vec![MACHINE.parse().unwrap()],
            record: Some(Record { screen: true, serial: Vec::new() }),
            ..Pool::default()
        };
        settings.pools.0.insert("recorded".to_owned(), pool);
    })
    .await;
    let of_pool = |more: Value| {
        let mut ask = json!({"select": {"pool": "recorded"}, "prepare": {"power": "on"}});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask
    };
    let lease = Held::take(&lab, of_pool(json!({}))).await;
    record_stage(&lab, &lease, ScreenStage::Login).await;
    lease.end(&lab).await;
    let without = Held::take(&lab, of_pool(json!({"record": {}}))).await;
    let shown = lab.get(&without.path()).await.expect(200).json;
    assert_eq!((&shown["record"], &shown["recording"]), (&Value::Null, &Value::Null));
    without.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    assert!(lease.names(&lab).await.contains(&"screen.apng".to_owned()));
    assert_eq!(without.names(&lab).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_leaves_out_what_happens_while_a_secret_is_typed() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, recorded()).await;
    let login = record_stage(&lab, &lease, ScreenStage::Login).await;
    // The call goes on until the client hangs up.
    let body = json!({
        "events": [{"text": "hunter2"}, {"pause": "30s"}], "secret": true, "interval": "5ms",
    });
    let path = format!("/v1/machines/{MACHINE}/screen/input");
    let typing = lab.request(Method::POST, &path).header("otter-lease", &lease.secret).json(&body);
    let typing = tokio::spawn(typing.send());
    lab.wait_until(&lease.path(), |lease| lease["recording"]["state"] == "paused").await;
    // The login shows a dot for each character.
    let mut secrets: Vec<Picture> = Vec::new();
    eventually("the secret to be shown", async || {
        let now = guest_picture(&lab, MACHINE);
        let is_new = now != login && !secrets.contains(&now);
        if is_new {
            secrets.push(now);
        }
        !is_new && !secrets.is_empty()
    })
    .await;
    lab.control().show_screen(MACHINE, ScreenStage::Firmware);
    typing.abort();
    lab.wait_until(&lease.path(), |lease| lease["recording"]["state"] == "recording").await;
    record_stage(&lab, &lease, ScreenStage::Login).await;
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    let frames = frames(&lease.bytes(&lab, "screen.apng").await);
    assert!(frames.iter().any(|(frame, _)| shows(frame, &login)));
    let shows_secret =
        |(frame, _): &(Picture, u64)| secrets.iter().any(|secret| shows(frame, secret));
    assert!(!frames.iter().any(shows_secret), "a secret was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_is_too_large_ends_and_its_lease_goes_on() {
    let lab = Lab::with_settings(|settings| settings.artifacts.recording_bytes = 60_000).await;
    let lease = Held::take(&lab, recorded()).await;
    let login = record_stage(&lab, &lease, ScreenStage::Login).await;
    let mut stages = [ScreenStage::Desktop, ScreenStage::Login].into_iter().cycle();
    eventually("the recording to end", async || {
        lab.control().show_screen(MACHINE, stages.next().unwrap());
        recording(&lab, &lease).await["state"] == "ended"
    })
    .await;
    let shown = lab.get(&lease.path()).await.expect(200).json;
    assert_eq!(shown["state"], "active");
    let reason = shown["recording"]["reason"].as_str().unwrap();
    assert!(reason.contains("artifacts.recording_bytes"), "{reason}");
    assert!(shown["warnings"].to_string().contains("the recording of screen ended"), "{shown}");
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    let frames = frames(&lease.bytes(&lab, "screen.apng").await);
    assert!(frames.iter().any(|(frame, _)| shows(frame, &login)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_port_becomes_a_log_and_a_recording_of_a_terminal() {
    let state = tempfile::tempdir().unwrap();
    let lab = lab_in(state.path()).await;
    let lease = record_port(&lab, state.path()).await;
    let running = recording(&lab, &lease).await;
    assert_eq!((&running["screen"], &running["serial"]), (&json!(false), &json!(["ttyS0"])));
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    assert_eq!(lease.names(&lab).await, ["ttyS0.cast", "ttyS0.log"]);
    let log = String::from_utf8(lease.bytes(&lab, "ttyS0.log").await).unwrap();
    assert!(log.contains(LINE), "{log}");
    let cast = String::from_utf8(lease.bytes(&lab, "ttyS0.cast").await).unwrap();
    let mut lines = cast.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let header = lines.next().unwrap();
    assert_eq!((&header["version"], &header["width"]), (&json!(2), &json!(80)));
    let events: Vec<Value> = lines.collect();
    assert!(events.is_sorted_by_key(|event| event[0].as_f64().unwrap()), "{cast}");
    let output = events.iter().map(|event| match (event[1].as_str(), event[2].as_str()) {
        (Some("o"), Some(text)) => text.to_owned(),
        (Some("m"), Some(gap)) => {
            format!("\r\n[otter: {}]\r\n", gap.replacen("missing", "missing here", 1))
        }
        _ => panic!("{event}"),
    });
    assert_eq!(output.collect::<String>(), log);
}

/// The guest echoes what is typed.
#[tokio::test(flavor = "multi_thread")]
async fn the_recording_of_a_port_leaves_a_secret_out_that_its_log_has() {
    let state = tempfile::tempdir().unwrap();
    let lab = lab_in(state.path()).await;
    let lease = record_port(&lab, state.path()).await;
    let file = state.path().join("recordings").join(&lease.id).join("ttyS0.rec");
    let recorded_lines = || {
        let recorded = std::fs::read(&file).unwrap();
        recorded.windows(LINE.len()).filter(|part| *part == LINE.as_bytes()).count()
    };
    let before = recorded_lines();
    let port = format!("/v1/machines/{MACHINE}/serial/ttyS0");
    let own = [("otter-lease", lease.secret.as_str())];
    let body = json!({"text": "hunter2", "pace": "20ms", "secret": true});
    lab.post_with(&format!("{port}/input"), body, &own).await.expect(200);
    // The pause goes on for two seconds.
    lab.wait_until(&lease.path(), |lease| lease["recording"]["state"] == "paused").await;
    eventually("the echo", async || {
        let log = lab.get_with(&format!("{port}/log"), &own).await.expect(200).text;
        log.contains("hunter2")
    })
    .await;
    lab.wait_until(&lease.path(), |lease| lease["recording"]["state"] == "recording").await;
    eventually("later output to be recorded", async || {
        let line = PortChange::Write(LINE.into());
        lab.control().change_serial_port(MACHINE, "ttyS0", line);
        recorded_lines() > before
    })
    .await;
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    for name in ["ttyS0.log", "ttyS0.cast"] {
        let text = String::from_utf8(lease.bytes(&lab, name).await).unwrap();
        assert!(!text.contains("hunter"), "{name}: {text}");
        assert!(text.contains("a secret was being typed"), "{name}: {text}");
        assert!(text.matches(LINE.trim_end()).count() > before, "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_the_port_is_not_recorded_and_says_so() {
    let lab = Lab::start().await;
    let ask = json!({"prepare": {"power": "on"}, "record": {"serial": ["9999"]}});
    let lease = Held::take(&lab, ask).await;
    lab.wait_until(&lease.path(), |lease| {
        lease["warnings"].to_string().contains("none of the serial ports")
    })
    .await;
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    assert_eq!(lease.names(&lab).await, [""; 0]);
}

/// A lab whose otter has this state directory.
pub async fn lab_in(state: &Path) -> Lab {
    let lab = Lab::with_state_dir_and_options(state, LabOptions::default()).await;
    lab.wait_until_ready().await;
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_whose_lease_ended_while_otter_stopped_is_rendered_at_the_next_start() {
    let state = tempfile::tempdir().unwrap();
    let lab = lab_in(state.path()).await;
    let lease = Held::take(&lab, recorded()).await;
    let login = record_stage(&lab, &lease, ScreenStage::Login).await;
    // The lease ends, and otter stops before the recording is rendered.
    let path = lease.path();
    let end = lab.request(Method::DELETE, &path).header("otter-lease", &lease.secret);
    Answer::from_request(end).await.expect(200);
    lab.stop().await;
    // The host of the next lab is another one, so the machine of the lease is gone.
    let lab = lab_in(state.path()).await;
    lease.wait_until_rendered(&lab).await;
    let frames = frames(&lease.bytes(&lab, "screen.apng").await);
    assert!(frames.iter().any(|(frame, _)| shows(frame, &login)));
    let left = std::fs::read_dir(state.path().join("recordings")).unwrap().count();
    assert_eq!(left, 0, "the files of the recording are removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_recording_is_checked() {
    let lab = Lab::start().await;
    let take = async |record: Value| {
        let ask = json!({"select": {"machine": MACHINE}, "ttl": "1m", "record": record});
        lab.post("/v1/leases", ask).await.problem(400, "invalid-request")
    };
    let wrong = json!({"serial": ["ttyS0", "COM1"]});
    take(wrong).await.points_at("/record/serial/1", "not-a-port");
    let many = json!({"serial": vec!["*"; 33]});
    take(many).await.points_at("/record/serial", "out-of-range");
    take(json!({"screen": "yes"})).await.points_at("/record/screen", "wrong-type");
    take(json!({"video": true})).await.points_at("/record/video", "unknown-field");
}
