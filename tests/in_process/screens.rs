//! The screens of the host in this process: a small RFB server (RFC 6143) over the guests of the
//! simulator, without TLS and WebSocket. It sends whole screens as Raw.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use otter::clock::Clock;
use otter::domain::ids::MachineId;
use otter::hypervisor::ScreenObject;
use otter::simulator::Fault;
use otter::simulator::world::{self, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::host::SimulatedHost;
use super::translation::find_machine;

/// The bytes that can be on their way in each direction.
const BUFFER: usize = 64 << 10;

/// How often the server looks whether the guest paints something else.
const LOOK: Duration = Duration::from_millis(10);

/// A whole screen.
#[derive(Clone, PartialEq, Eq)]
struct Shown {
    width: u16,
    height: u16,
    pixels: Vec<u8>,
}

/// Opens a connection to the screen of a machine. It ends when the machine is not on any more.
pub fn open(host: &SimulatedHost, machine: &MachineId) -> DuplexStream {
    let (client, server) = tokio::io::duplex(BUFFER);
    let (host, machine) = (host.clone(), machine.clone());
    // The client has gone if it fails.
    tokio::spawn(async move { drop(serve(&host, &machine, server).await) });
    client
}

/// Checks that a machine has a screen.
pub fn check(world: &World, machine: &MachineId) -> Result<(), Fault> {
    let machine = find_machine(world, machine)?;
    match machine.power {
        world::PowerState::On => Ok(()),
        _ => Err(Fault::new("InvalidState", "The machine is not on.")),
    }
}

/// The picture of a screen as PNG. `None` if there is no such object, or it has no picture.
pub fn picture(world: &World, object: &ScreenObject) -> Option<Bytes> {
    let now = world.now();
    let shown = match object {
        ScreenObject::Machine(id) => {
            let machine = world.machine(id.backend_text())?;
            machine.screen.picture(now, &machine.name)?
        }
        ScreenObject::Snapshot(id) => {
            let machine = world.machine_of_snapshot(id.backend_text())?;
            let saved = machine.snapshot(id.backend_text())?.screen.as_ref()?;
            saved.picture(now, &machine.name)?
        }
    };
    let (width, height) = (u32::from(shown.width), u32::from(shown.height));
    let bgr = shown.draw().into_pixels();
    let rgb: Vec<u8> =
        bgr.chunks_exact(4).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&rgb).unwrap();
    Some(png.into())
}

fn look(host: &SimulatedHost, machine: &MachineId) -> Option<Shown> {
    host.look(|world| {
        let found = world.machine(machine.backend_text())?;
        let picture = found.screen.picture(world.now(), &found.name)?;
        let (width, height) = (picture.width, picture.height);
        Some(Shown { width, height, pixels: picture.draw().into_pixels() })
    })
}

async fn serve(
    host: &SimulatedHost,
    machine: &MachineId,
    mut stream: DuplexStream,
) -> io::Result<()> {
    let ended = || io::Error::from(io::ErrorKind::BrokenPipe);
    stream.write_all(b"RFB 003.008\n").await?;
    read(&mut stream, 12).await?;
    stream.write_all(&[1, 1]).await?;
    read(&mut stream, 1).await?;
    stream.write_all(&[0; 4]).await?;
    read(&mut stream, 1).await?;
    let mut sent = look(host, machine).ok_or_else(ended)?;
    let mut init = Vec::new();
    init.extend(sent.width.to_be_bytes());
    init.extend(sent.height.to_be_bytes());
    init.extend([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    init.extend([0, 0, 0, 4]);
    init.extend(b"test");
    stream.write_all(&init).await?;
    loop {
        match stream.read_u8().await? {
            0 => read(&mut stream, 19).await.map(drop)?,
            2 => {
                let head = read(&mut stream, 3).await?;
                let count = u16::from_be_bytes([head[1], head[2]]);
                read(&mut stream, usize::from(count) * 4).await?;
            }
            3 => {
                let is_incremental = read(&mut stream, 9).await?[0] != 0;
                let shown = next(host, machine, is_incremental.then_some(&sent)).await;
                let shown = shown.ok_or_else(ended)?;
                stream.write_all(&update(&sent, &shown)).await?;
                sent = shown;
            }
            // The guests of this host get no input.
            4 => read(&mut stream, 7).await.map(drop)?,
            5 => read(&mut stream, 5).await.map(drop)?,
            _ => return Err(ended()),
        }
    }
}

/// What the machine shows, as soon as it is not `than` any more. `None` if it is not on any more.
async fn next(host: &SimulatedHost, machine: &MachineId, than: Option<&Shown>) -> Option<Shown> {
    loop {
        let shown = look(host, machine)?;
        if than != Some(&shown) {
            return Some(shown);
        }
        Clock::clone(host.clock()).sleep(LOOK).await;
    }
}

/// One update: the size alone if it changed, else all pixels.
fn update(sent: &Shown, shown: &Shown) -> Vec<u8> {
    let mut update = vec![0, 0, 0, 1, 0, 0, 0, 0];
    update.extend(shown.width.to_be_bytes());
    update.extend(shown.height.to_be_bytes());
    if (sent.width, sent.height) == (shown.width, shown.height) {
        update.extend([0; 4]);
        update.extend(&shown.pixels);
    } else {
        update.extend((-223i32).to_be_bytes());
    }
    update
}

async fn read(stream: &mut DuplexStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
