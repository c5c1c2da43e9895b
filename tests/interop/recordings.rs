//! Programs that otter's authors did not write play what otter recorded: Chromium and ffmpeg play
//! the screen, and the player of asciinema plays a serial port.

use std::future::ready;
use std::process::{Command, Stdio};

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;
use otter::simulator::ScreenStage;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::browser::{Site, TIMEOUT, chromium};
use super::{program_in, succeeds, succeeds_within};
use crate::artifacts::Held;
use crate::artifacts::recordings::{
    LINE, Picture, frames, lab_in, record_port, record_stage, recorded,
};
use crate::harness::Lab;

/// Decodes a recording. Reports the duration of each frame in microseconds, and the hash of its
/// pixels.
const SCREEN: &str = r#"<!doctype html><title>screen</title><img src="/end">
<script>
(async () => {
  const results = [];
  try {
    const data = await (await fetch("/screen.apng")).arrayBuffer();
    const decoder = new ImageDecoder({data, type: "image/png"});
    await Promise.all([decoder.tracks.ready, decoder.completed]);
    const {animated, frameCount, repetitionCount} = decoder.tracks.selectedTrack;
    results.push([animated, frameCount, repetitionCount].join(" "));
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d", {willReadFrequently: true});
    for (let frameIndex = 0; frameIndex < frameCount; frameIndex++) {
      const {image} = await decoder.decode({frameIndex});
      [canvas.width, canvas.height] = [image.displayWidth, image.displayHeight];
      context.drawImage(image, 0, 0);
      const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
      const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
      const hex = Array.from(hash, byte => byte.toString(16).padStart(2, "0")).join("");
      results.push(image.duration + " " + hex);
      image.close();
    }
  } catch (error) {
    results.push(error.name + " " + error.message);
  }
  await fetch("/results", {method: "POST", body: results.join("\n")});
})();
</script>"#;

/// Plays a recording of a terminal. Reports its duration in seconds when the line is shown.
const TERMINAL: &str = r#"<!doctype html><title>terminal</title><img src="/end">
<div class="player"></div>
<script src="/player.js"></script>
<script>
const player = AsciinemaPlayer.create("/ttyS0.cast", document.querySelector(".player"),
  {speed: 50});
player.addEventListener("ended", function show() {
  const text = document.querySelector(".ap-term-text").textContent;
  if (text.includes("the build passed")) {
    fetch("/results", {method: "POST", body: player.getDuration().toString()});
  } else {
    requestAnimationFrame(show);
  }
});
player.play();
</script>"#;

/// What a page reports of a file of its server.
async fn results_of(page: &'static str, files: Router) -> String {
    let profile = tempfile::tempdir().unwrap();
    let site = Site::serve_with(page, files).await;
    succeeds_within(chromium(&site.origin, profile.path()), TIMEOUT).await;
    site.results()
}

fn file(bytes: Vec<u8>) -> axum::routing::MethodRouter {
    let bytes = Bytes::from(bytes);
    get(move || ready(bytes))
}

/// The hash of the pixels: red, green, blue, and what follows them in each pixel.
fn hash((_, _, pixels): &Picture, rest: &[u8]) -> String {
    let mut hash = Sha256::new();
    for [blue, green, red] in pixels {
        hash.update([*red, *green, *blue]);
        hash.update(rest);
    }
    hex::encode(hash.finalize())
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_and_ffmpeg_play_the_recording_of_a_screen() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, recorded()).await;
    for stage in [ScreenStage::Login, ScreenStage::Desktop, ScreenStage::Login] {
        record_stage(&lab, &lease, stage).await;
    }
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    let recording = lease.bytes(&lab, "screen.apng").await;
    let frames = frames(&recording);
    assert!(frames.len() >= 3, "{} frames", frames.len());

    let shown = results_of(SCREEN, Router::new().route("/screen.apng", file(recording.clone())));
    let shown = shown.await;
    let mut lines = shown.lines();
    // The recording plays once.
    assert_eq!(lines.next().unwrap(), format!("true {} 0", frames.len()));
    let opaque = |(picture, millis): &(Picture, u64)| {
        format!("{} {}", millis * 1_000, hash(picture, &[u8::MAX]))
    };
    assert_eq!(lines.collect::<Vec<_>>(), frames.iter().map(opaque).collect::<Vec<_>>());

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("screen.apng");
    std::fs::write(&path, recording).unwrap();
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "apng", "-i"]).arg(&path).stdin(Stdio::null());
    ffmpeg.args(["-fps_mode", "passthrough", "-enc_time_base", "-1", "-pix_fmt", "rgb24"]);
    ffmpeg.args(["-f", "framehash", "-hash", "sha256", "-"]);
    let output = String::from_utf8(succeeds(ffmpeg).await.stdout).unwrap();
    let hashes = output.lines().filter(|line| !line.starts_with('#'));
    let hashes = hashes.map(|line| line.rsplit(',').next().unwrap().trim());
    let expected: Vec<String> = frames.iter().map(|(picture, _)| hash(picture, &[])).collect();
    assert_eq!(hashes.collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_player_of_asciinema_plays_the_recording_of_a_port() {
    let player = std::fs::read(program_in("OTTER_PLAYER")).unwrap();
    let state = tempfile::tempdir().unwrap();
    let lab = lab_in(state.path()).await;
    let lease = record_port(&lab, state.path()).await;
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    let cast = lease.bytes(&lab, "ttyS0.cast").await;
    let text = String::from_utf8(cast.clone()).unwrap();
    assert!(text.contains(LINE.trim_end()), "{text}");
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let files = Router::new().route("/player.js", file(player)).route("/ttyS0.cast", file(cast));
    let seconds: f64 = results_of(TERMINAL, files).await.parse().unwrap();
    let expected = last[0].as_f64().unwrap();
    assert!((seconds - expected).abs() < 0.1, "{seconds} s, not {expected} s");
}
