//! Holds many open requests of one path, so that their memory can be measured, and then measures
//! when all of them are answered.
//!
//! It prints `held` once the server has all requests, and goes on at the next line of its standard
//! input: it posts the path that ends the requests, if one is given, and reads all answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::host::micros;
use super::http::{self, Connection};

/// The number of connections that are opened at the same time.
const OPENED_AT_ONCE: usize = 64;

/// How long the server has to take in the last request.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub struct HoldArguments {
    #[arg(long)]
    server: SocketAddr,
    /// The path of the requests.
    #[arg(long)]
    path: String,
    /// The number of requests.
    #[arg(long)]
    count: usize,
    /// The requests are streams: each counts as held once its head has arrived.
    #[arg(long)]
    stream: bool,
    /// The path that is posted to end the requests.
    #[arg(long)]
    end: Option<String>,
    /// The status of the answers after `end` was posted.
    #[arg(long, default_value_t = 200)]
    status: u16,
}

/// Holds the requests. The JSON has the time from the post until each answer.
pub async fn run(arguments: HoldArguments) -> anyhow::Result<Value> {
    let HoldArguments { server, path, count, stream, end, status } = arguments;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("the limit of open files cannot be raised")?;
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        let mut opening = JoinSet::new();
        for _ in 0..OPENED_AT_ONCE.min(count - connections.len()) {
            opening.spawn(open(server, path.clone(), stream));
        }
        while let Some(opened) = opening.join_next().await {
            connections.push(opened??);
        }
    }
    tokio::time::sleep(SETTLE).await;
    println!("held");
    let mut line = String::new();
    tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line)).await??;
    let Some(end) = end else { return Ok(json!({"held": count})) };
    let mut answers = JoinSet::new();
    for mut connection in connections {
        answers.spawn(async move {
            let answer = connection.answer().await?;
            let at = Instant::now();
            answer.expect(status)?;
            anyhow::Ok(at)
        });
    }
    let mut ending = Connection::open(server).await?;
    let started = Instant::now();
    let ended = ending.exchange(&http::post(&end, "{}")).await?;
    let (ended, ended_at) = (ended.status, Instant::now());
    if !(200..300).contains(&ended) {
        bail!("the post to {end} was answered with {ended}");
    }
    let mut last = started;
    while let Some(answered) = answers.join_next().await {
        last = last.max(answered??);
    }
    Ok(json!({
        "held": count,
        "posted": micros(ended_at - started),
        "last": micros(last - started),
    }))
}

async fn open(
    server: SocketAddr,
    path: String,
    stream: bool,
) -> anyhow::Result<Connection<TcpStream>> {
    let mut connection = Connection::open(server).await?;
    connection.send(&http::get(&path, "")).await?;
    if stream {
        connection.start_of_stream().await?;
    }
    Ok(connection)
}
