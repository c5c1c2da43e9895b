//! Real RFB servers behind the console of a simulated machine: QEMU is a screen with a keyboard,
//! and Xvnc is a screen that X clients paint and resize.

use std::process::Command;
use std::time::Duration;

use otter::simulator::Scenario;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::program::Program;
use super::{free_port, succeeds};
use crate::harness::{Lab, LabOptions, eventually};
use crate::screens::decode;

/// The id of the machine whose console is bridged, and its path.
const ID: &str = "17";
const MACHINE: &str = "/v1/machines/17";

/// VNC displays are ports above this one.
const FIRST_PORT: u16 = 5900;

/// How long QEMU may take to its prompt. It emulates the processor, and a boot may fail before one
/// succeeds.
const BOOT_LIMIT: Duration = Duration::from_mins(2);

/// QEMU boots to the prompt of iPXE, which echoes what is typed. Everything goes through otter.
#[tokio::test(flavor = "multi_thread")]
async fn qemu_boots_to_a_prompt_and_echoes_what_is_typed() {
    const PROMPT: &str = "iPXE>";
    /// The line that is typed, and its output below it.
    const ECHO: &str = "Hello-otter_42 Hello-otter_42";
    let port = free_port();
    let lab = bridged_lab(port).await;
    let _qemu = Program::start(qemu(port));
    eventually("QEMU to listen", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok())
        .await;
    // iPXE waits for Ctrl-B only for a moment.
    let prompt = async {
        let press = json!({"keys": ["ctrl-b"]});
        let press = json!([press, {"pause": "500ms"}, press, {"pause": "500ms"}, press]);
        loop {
            type_at(&lab, press.clone()).await;
            if wait_for(&lab, "5s", PROMPT).await.is_some() {
                return;
            }
        }
    };
    timeout(BOOT_LIMIT, prompt).await.expect("the prompt of iPXE");

    type_at(&lab, json!([{"text": "echo Hello-otter_42"}, {"keys": ["enter"]}])).await;
    let shown = wait_for(&lab, "13s", ECHO).await.expect("the echo");
    let text = shown["text"].as_str().unwrap();
    assert_eq!(text.matches("Hello").count(), 2, "Shift makes a capital: {text}");
    // OCR takes `-` and `_` for each other, so their pixels are compared.
    let number = |field: &str| shown[field].as_u64().unwrap();
    let row = (number("y") + number("height") - 1) / 16 * 16;
    let cell = async |column: u64| {
        let region = format!("{},{row},9,16", column * 9);
        lab.get(&format!("{MACHINE}/screen.png?region={region}")).await.expect(200).bytes
    };
    assert_ne!(cell(5).await, cell(11).await);

    let screen = lab.get(&format!("{MACHINE}/screen")).await.expect(200).json;
    assert_eq!((&screen["width"], &screen["height"]), (&json!(720), &json!(400)));
    assert_eq!((&screen["connection"], &screen["viewers"]), (&json!("open"), &json!([])));
    assert_eq!(lab.control().open_consoles(ID), 1, "one connection for all calls");
}

/// Xvnc sends pseudo-rectangles for new sizes and for the end of updates, and paints the pointer
/// into the picture of a client that knows no cursors.
#[tokio::test(flavor = "multi_thread")]
async fn the_picture_of_xvnc_is_what_x_clients_paint() {
    let port = free_port();
    let mut server = Program::start(xvnc(port));
    let number = server.wait_for_line("the number of the display", |line| !line.is_empty()).await;
    let display = format!(":{number}");
    let lab = bridged_lab(port).await;
    let directory = tempfile::tempdir().unwrap();
    let bitmap = directory.path().join("tile.xbm");
    std::fs::write(&bitmap, tile()).unwrap();

    let tiles = ["-bitmap", bitmap.to_str().unwrap(), "-fg", FOREGROUND.0, "-bg", BACKGROUND.0];
    x_client("xsetroot", &display, &tiles).await;
    shows_only_tiles(&lab, (800, 600)).await;
    x_client("xrandr", &display, &["-s", "1024x768"]).await;
    shows_only_tiles(&lab, (1024, 768)).await;
    x_client("xrandr", &display, &["-s", "640x480"]).await;
    shows_only_tiles(&lab, (640, 480)).await;

    x_client("xsetroot", &display, &["-cursor_name", "left_ptr"]).await;
    for (x, y) in [(100, 200), (500, 60)] {
        type_at(&lab, json!([{"move": {"x": x, "y": y}}])).await;
        eventually("the pointer at its place", async || {
            let (size, others) = other_pixels(&lab).await;
            let is_near =
                |(across, down): &(u32, u32)| across.abs_diff(x) < 32 && down.abs_diff(y) < 32;
            size == (640, 480) && !others.is_empty() && others.iter().all(is_near)
        })
        .await;
    }
    server.terminate().await;
}

/// A command that runs QEMU with this port for its screen.
fn qemu(port: u16) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "pc,accel=tcg", "-m", "64", "-nodefaults", "-vga", "std"]);
    // The network card has the firmware with iPXE. It reaches nothing outside of QEMU.
    qemu.args(["-nic", "user,model=e1000,restrict=on"]);
    // A boot that fails is repeated.
    qemu.args(["-boot", "order=n,reboot-timeout=1000", "-display", "none"]);
    qemu.args(["-vnc", &format!("127.0.0.1:{}", port - FIRST_PORT)]);
    qemu
}

/// A command that runs Xvnc with this port for its screen. It prints the number of its X display.
fn xvnc(port: u16) -> Command {
    let mut xvnc = Command::new("Xvnc");
    xvnc.args(["-rfbport", &port.to_string(), "-localhost", "-SecurityTypes", "None"]);
    xvnc.args(["-displayfd", "1", "-geometry", "800x600", "-depth", "24"]);
    // What a client paints stays when the client ends.
    xvnc.args(["-noreset", "-Log", "*:stderr:0"]);
    xvnc
}

/// Runs a client of an X display until it ends.
async fn x_client(program: &str, display: &str, arguments: &[&str]) {
    let mut client = Command::new(program);
    client.args(["-display", display]).args(arguments);
    succeeds(client).await;
}

/// A lab with a machine whose console is the RFB server on this port.
async fn bridged_lab(port: u16) -> Lab {
    let name = "name = \"qubes-4.2-sdw-prod\"";
    let bridged = format!("{name}\nscreen = \"tcp:127.0.0.1:{port}\"");
    let scenario = include_str!("../../config/lab.toml").replace(name, &bridged);
    let scenario = Scenario::from_toml(&scenario).unwrap();
    Lab::with_options(LabOptions { scenario, ..LabOptions::default() }).await
}

/// Sends events of input to the machine.
async fn type_at(lab: &Lab, events: Value) {
    lab.post(&format!("{MACHINE}/screen/input"), json!({"events": events})).await.expect(200);
}

/// Waits for a text on the screen. `None` if it does not come in time.
async fn wait_for(lab: &Lab, wait: &str, text: &str) -> Option<Value> {
    let path = format!("{MACHINE}/screen/wait?wait={wait}");
    let answer = lab.post(&path, json!({"any": [{"text": text}]})).await;
    if answer.status == 200 {
        return Some(answer.json["matched"].clone());
    }
    answer.problem(504, "wait-timeout");
    None
}

/// The colours of the tiles, for X clients, and as blue, green and red.
const FOREGROUND: (&str, [u8; 3]) = ("#12ab34", [0x34, 0xab, 0x12]);
const BACKGROUND: (&str, [u8; 3]) = ("#fedc0f", [0x0f, 0xdc, 0xfe]);

/// The width and the height of a tile. No size of a screen is a multiple of them.
const TILE: (u32, u32) = (61, 37);

/// Whether a pixel of the tiles, which begin at the top left corner, has the foreground colour.
const fn is_foreground(x: u32, y: u32) -> bool {
    let (x, y) = (x % TILE.0, y % TILE.1);
    (x * x + x * y + 3 * y * y) % 7 < 3
}

/// A tile as an X bitmap: rows of whole bytes, whose lowest bit is the leftmost pixel.
fn tile() -> String {
    let (width, height) = TILE;
    let byte = |y: u32, first: u32| {
        let bits = (0..8).filter(|bit| first + bit < width && is_foreground(first + bit, y));
        bits.fold(0_u8, |byte, bit| byte | 1 << bit)
    };
    let rows = (0..height).map(|y| {
        let bytes = (0..width).step_by(8).map(|first| format!("{:#04x}", byte(y, first)));
        bytes.collect::<Vec<_>>().join(",")
    });
    let rows = rows.collect::<Vec<_>>().join(",\n");
    format!(
        "#define tile_width {width}\n#define tile_height {height}\n\
         static char tile_bits[] = {{\n{rows}}};\n"
    )
}

/// The size of the screen, and the places of the pixels that are not those of the tiles.
async fn other_pixels(lab: &Lab) -> ((u32, u32), Vec<(u32, u32)>) {
    let picture = lab.get(&format!("{MACHINE}/screen.png")).await.expect(200);
    let (width, height, pixels) = decode(&picture.bytes);
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let others = places.zip(pixels).filter(|((x, y), pixel)| {
        let tile = if is_foreground(*x, *y) { FOREGROUND } else { BACKGROUND };
        *pixel != tile.1
    });
    ((width, height), others.map(|(place, _)| place).collect())
}

/// Waits until the screen has this size and shows nothing but tiles.
async fn shows_only_tiles(lab: &Lab, expected: (u32, u32)) {
    eventually(&format!("tiles on {expected:?}"), async || {
        let (size, others) = other_pixels(lab).await;
        size == expected && others.is_empty()
    })
    .await;
}
