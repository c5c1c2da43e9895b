//! Submits jobs to machines whose queue is held, and does not wait for their ends.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::host::micros;
use super::http::{self, Connection};

#[derive(Args, Debug)]
pub struct SubmitArguments {
    #[arg(long)]
    server: SocketAddr,
    /// The ids of the machines, one for each client.
    #[arg(long, value_delimiter = ',', required = true)]
    machines: Vec<String>,
    /// The number of jobs that each client submits.
    #[arg(long, default_value_t = 1)]
    count: u32,
}

/// Submits the jobs, as many clients at once as there are machines.
pub async fn run(arguments: SubmitArguments) -> anyhow::Result<Value> {
    let SubmitArguments { server, machines, count } = arguments;
    let mut connections = try_join_all(machines.iter().map(|_| Connection::open(server))).await?;
    let started = Instant::now();
    let clients = machines.iter().zip(&mut connections).map(|(machine, connection)| async move {
        let request = http::post(&format!("/v1/machines/{machine}/power"), "{\"action\":\"on\"}");
        for _ in 0..count {
            let answer = connection.exchange(&request).await?;
            answer.expect(202).context("a job was not accepted")?;
        }
        anyhow::Ok(())
    });
    try_join_all(clients).await?;
    let jobs = u64::from(count) * u64::try_from(machines.len())?;
    Ok(json!({"jobs": jobs, "wall": micros(started.elapsed())}))
}
