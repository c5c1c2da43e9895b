//! Reads paths one by one on an open connection, in turns, and prints each duration.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use super::host::micros;
use super::http::{self, Connection};

#[derive(Args, Debug)]
pub struct GetArguments {
    #[arg(long)]
    server: SocketAddr,
    /// The paths, with their queries.
    #[arg(long, required = true)]
    path: Vec<String>,
    /// How often to read each path.
    #[arg(long, default_value_t = 100)]
    count: u32,
}

/// Reads the paths. The JSON has the durations in microseconds and the size of each path.
pub async fn run(arguments: GetArguments) -> anyhow::Result<Value> {
    let GetArguments { server, path: paths, count } = arguments;
    let mut connection = Connection::open(server).await?;
    let mut measured: Vec<(Vec<f64>, usize)> = vec![(Vec::new(), 0); paths.len()];
    for _ in 0..count {
        for (path, (durations, size)) in paths.iter().zip(&mut measured) {
            let request = http::get(path, "");
            let started = Instant::now();
            let answer = connection.exchange(&request).await?;
            durations.push(micros(started.elapsed()));
            *size = answer.expect(200).with_context(|| format!("GET {path}"))?.len();
        }
    }
    let entries = paths.into_iter().zip(measured);
    let entries: Map<String, Value> = entries
        .map(|(path, (durations, bytes))| (path, json!({"micros": durations, "bytes": bytes})))
        .collect();
    Ok(entries.into())
}
