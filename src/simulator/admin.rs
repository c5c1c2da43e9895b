//! The admin endpoint: the test hooks of the simulator as JSON over HTTP, on a loopback port of its
//! own.
//!
//! ```text
//! GET    /calls     the calls, by method and by operation
//! GET    /sessions  the numbers of sessions, views, filters and pending waits
//! GET    /world     the true state of machines and tasks, also if clients have not seen it
//! GET    /screens/ID  what the guest of a machine shows, as texts, its last input, its consoles
//! GET    /files     the files that clients, ports and scenarios have written, with their lengths
//! GET    /serial/ID   the serial ports of a machine: where they listen, and what went through them
//! POST   /faults    plans faults, written as `[[faults]]` of a scenario
//! DELETE /faults    removes the planned faults
//! POST   /<kind>    changes the host now; the kind is a fault, such as restart-hostd
//! ```

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::fault_config::FaultEntry;
use super::serial::SerialStatus;
use super::world::{Machine, World};

/// Serves the admin endpoint on `listener` until `stop` is cancelled.
pub async fn serve(listener: TcpListener, control: Control, stop: CancellationToken) {
    let router = Router::new()
        .route("/calls", get(calls))
        .route("/sessions", get(sessions))
        .route("/world", get(world))
        .route("/screens/{machine}", get(screen))
        .route("/serial/{machine}", get(serial))
        .route("/files", get(files).post(change_files))
        .route("/faults", post(plan).delete(forget))
        .route("/{what}", post(apply))
        .fallback(|| async {
            answer(StatusCode::NOT_FOUND, &json!({"error": "there is no such path"}))
        })
        .with_state(control);
    // An open request of a caller that hangs must not delay the stop, so the stop drops all open
    // requests.
    let _: Option<_> = stop.run_until_cancelled(axum::serve(listener, router).into_future()).await;
}

async fn calls(State(control): State<Control>) -> Response {
    let body = json!({
        "sessions": control.sessions(),
        "pending_waits": control.pending_waits(),
        "methods": control.all_calls(),
        "operations": control.calls_by_operation(),
        "taken": control.accepted_calls_by_operation(),
    });
    answer(StatusCode::OK, &body)
}

async fn world(State(control): State<Control>) -> Response {
    let machine = |machine: &Machine| {
        let snapshots = machine.snapshots.iter().map(|snapshot| {
            json!({
                "id": snapshot.id,
                "parent": snapshot.parent,
                "name": snapshot.name,
                "description": snapshot.description,
            })
        });
        let body = json!({
            "name": machine.name,
            "power": machine.power.as_str(),
            "tools_running": machine.guest.tools_running,
            "current_snapshot": machine.current_snapshot,
            "snapshots": snapshots.collect::<Vec<_>>(),
        });
        (machine.id.clone(), body)
    };
    let body = control.look(|world: &World| {
        let machines: serde_json::Map<_, _> = world.machines().map(machine).collect();
        let tasks = world.tasks().map(|task| (task.id.clone(), json!(task.state.as_str())));
        json!({"machines": machines, "tasks": tasks.collect::<serde_json::Map<_, _>>()})
    });
    answer(StatusCode::OK, &body)
}

async fn screen(State(control): State<Control>, Path(machine): Path<String>) -> Response {
    let counted = control.look(|world| world.machine(&machine).map(|found| found.mks_connections));
    let Some(counted) = counted else {
        return answer(StatusCode::NOT_FOUND, &json!({"error": "there is no such machine"}));
    };
    let open = control.open_consoles(&machine);
    let consoles = json!({"open": open, "counted": counted});
    let Some(screen) = control.screen(&machine) else {
        return answer(StatusCode::OK, &json!({"stage": "off", "consoles": consoles}));
    };
    let body = json!({
        "stage": screen.stage.as_str(),
        "width": screen.width,
        "height": screen.height,
        "lines": screen.lines,
        "held_keys": screen.held_keys,
        "held_buttons": screen.held_buttons,
        "last_input_at": screen.last_input_at.to_string(),
        "consoles": consoles,
    });
    answer(StatusCode::OK, &body)
}

async fn serial(State(control): State<Control>, Path(machine): Path<String>) -> Response {
    if control.look(|world| world.machine(&machine).is_none()) {
        return answer(StatusCode::NOT_FOUND, &json!({"error": "there is no such machine"}));
    }
    let port = |status: SerialStatus| {
        let SerialStatus {
            name,
            key,
            address,
            is_listening,
            tty,
            is_dead,
            is_connected,
            connections,
            written,
            received,
        } = status;
        json!({
            "port": name,
            "key": key,
            "address": address,
            "listening": is_listening,
            "tty": tty.map(|path| path.display().to_string()),
            "dead": is_dead,
            "connected": is_connected,
            "connections": connections,
            "written": written,
            "received": received,
        })
    };
    let ports: Vec<Value> = control.serial_ports(&machine).into_iter().map(port).collect();
    answer(StatusCode::OK, &json!({ "ports": ports }))
}

async fn files(State(control): State<Control>) -> Response {
    let written = control
        .look(|world| world.written_files().map(|(path, length)| (path, json!(length))).collect());
    answer(StatusCode::OK, &Value::Object(written))
}

/// Changes files, as `POST /<kind>` does.
async fn change_files(control: State<Control>, body: Bytes) -> Response {
    apply(control, Path("files".to_owned()), body).await
}

async fn sessions(State(control): State<Control>) -> Response {
    let body = json!({
        "sessions": control.sessions(),
        "views": control.views(),
        "filters": control.filters(),
        "pending_waits": control.pending_waits(),
    });
    answer(StatusCode::OK, &body)
}

/// Plans one fault, or each fault of a list. If one fault of the list is invalid, none is planned.
async fn plan(State(control): State<Control>, body: Bytes) -> Response {
    let entries = match read::<Value>(&body) {
        Ok(Value::Array(entries)) => entries,
        Ok(entry) => vec![entry],
        Err(error) => return refused(&error),
    };
    let checked: Result<Vec<_>, String> =
        entries.into_iter().map(|written| entry(written)?.check()).collect();
    match checked {
        Ok(faults) => {
            for fault in &faults {
                control.inject(fault);
            }
            answer(StatusCode::OK, &json!({"planned": faults.len()}))
        }
        Err(error) => refused(&error),
    }
}

async fn forget(State(control): State<Control>) -> Response {
    control.clear_disruptions();
    answer(StatusCode::OK, &json!({"planned": 0}))
}

/// Changes the host at once. The path of the request names the kind of the change, and the JSON
/// body holds the fields of the change.
async fn apply(State(control): State<Control>, Path(what): Path<String>, body: Bytes) -> Response {
    let body = if body.is_empty() { Ok(json!({})) } else { read::<Value>(&body) };
    let fault = body.and_then(|body| {
        let nothing = body.as_object().is_some_and(serde_json::Map::is_empty);
        // A scenario writes a change without fields as the name of its kind alone, so try that form
        // first.
        let word = if nothing { entry(json!({"what": &what})).ok() } else { None };
        word.map_or_else(|| entry(json!({"what": {&what: body}})), Ok)?.check()
    });
    match fault {
        Ok(fault) => {
            control.inject(&fault);
            answer(StatusCode::OK, &json!({"done": what}))
        }
        Err(error) => refused(&error),
    }
}

fn entry(written: Value) -> Result<FaultEntry, String> {
    serde_path_to_error::deserialize(written).map_err(|error| error.to_string())
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))
}

fn refused(error: &str) -> Response {
    answer(StatusCode::BAD_REQUEST, &json!({"error": error}))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}
