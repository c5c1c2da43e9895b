//! A port that writes to a file on a datastore, as long as its machine is on.

use super::super::SimulatorState;
use super::line::{Connected, EarlierOutput, Line};

/// How many bytes of a flood are written at once.
const MAX_WRITE: usize = 64 << 10;

/// Writes until the task is cancelled.
pub async fn run(line: Line, path: String) {
    let _connected = Connected::new(&line, EarlierOutput::Sent);
    let mut changes = line.shared.changes();
    let mut inputs = line.shared.screen_changes();
    let mut own = line.changed.clone();
    loop {
        changes.borrow_and_update();
        inputs.borrow_and_update();
        own.borrow_and_update();
        let (has_written, next) = {
            let mut state = line.shared.lock();
            let SimulatorState { world, serial, .. } = &mut *state;
            let (output, next) = serial.take_output(world, &line.port, MAX_WRITE);
            world.append_to_file(&path, &output);
            (!output.is_empty(), next)
        };
        if has_written {
            line.shared.notify_screens();
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = inputs.changed() => {}
            _ = own.changed() => {}
            () = line.at(next) => {}
        }
    }
}
