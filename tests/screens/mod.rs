//! Screens through otter's HTTP API, on the simulated host: pictures, the connection to the host,
//! viewers, and what is typed.

mod commands;
mod connections;
mod cuts;
mod input;
mod large_messages;
mod pictures;
mod text;
pub mod viewer_client;
mod viewers;
mod vnc_command;
mod wait;

use otter::simulator::{Control, ScreenStage};
use serde_json::Value;

use crate::harness::{Answer, Lab};

/// A machine of the scenario that is on.
const RUNNING: &str = "17";

/// The picture of a PNG: its width, its height, and blue, green and red of each pixel.
pub fn decode(png: &[u8]) -> (u32, u32, Vec<[u8; 3]>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    let pixels = pixels.chunks_exact(3).map(|rgb| [rgb[2], rgb[1], rgb[0]]).collect();
    (info.width, info.height, pixels)
}

/// What the guest of a machine shows now, as [`decode`] gives it.
pub fn guest_picture(lab: &Lab, machine: &str) -> (u32, u32, Vec<[u8; 3]>) {
    let screen = lab.control().screen(machine).unwrap();
    let pixels = screen.pixels.chunks_exact(4).map(|bgr| [bgr[0], bgr[1], bgr[2]]).collect();
    (screen.width.into(), screen.height.into(), pixels)
}

/// What was typed since the last Enter into the terminal that the guest of a machine shows.
pub fn typed_in_terminal(control: &Control, machine: &str) -> String {
    let screen = control.screen(machine).expect("a screen");
    let mut lines = screen.lines.iter().rev();
    let typed = lines.find_map(|line| line.strip_prefix("[user@dom0 ~]$"));
    typed.unwrap_or_else(|| panic!("no prompt in {:?}", screen.lines)).trim_start().to_owned()
}

async fn screen_state(lab: &Lab, machine: &str) -> Value {
    lab.get(&format!("/v1/machines/{machine}/screen")).await.expect(200).json
}

/// A lab whose guest shows a terminal.
async fn terminal() -> Lab {
    let lab = Lab::start().await;
    lab.control().show_screen(RUNNING, ScreenStage::Terminal);
    lab
}

/// A problem without the only part in which those of two requests differ.
pub fn without_request_id(answer: &Answer) -> Value {
    let mut problem = answer.json.clone();
    problem["request_id"] = Value::Null;
    problem
}
