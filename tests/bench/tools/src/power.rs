//! Changes the power of machines, through otter or on the host itself: one machine after the other,
//! or all machines at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::host::{Host, HostArguments, micros};
use super::http::{self, Connection};

/// The machines and what to do with them.
#[derive(Args, Clone, Debug)]
pub struct RoundArguments {
    /// The ids of the machines. They are off at the start.
    #[arg(long, value_delimiter = ',', required = true)]
    machines: Vec<String>,
    /// The number of rounds. Odd rounds power each machine on, even rounds off.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Change all machines of a round at once.
    #[arg(long)]
    at_once: bool,
}

#[derive(Args, Debug)]
pub struct PowerArguments {
    #[arg(long)]
    server: SocketAddr,
    #[command(flatten)]
    rounds: RoundArguments,
}

#[derive(Args, Debug)]
pub struct RawPowerArguments {
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    rounds: RoundArguments,
    /// The number of connections that share the machines if they change at once.
    #[arg(long, default_value_t = 8)]
    connections: usize,
}

/// The durations of one round.
struct Round {
    wall: Duration,
    each: Vec<Duration>,
}

/// Submits jobs to otter and waits for their ends.
pub async fn run(arguments: PowerArguments) -> anyhow::Result<Value> {
    let PowerArguments { server, rounds: RoundArguments { machines, rounds, at_once } } = arguments;
    let number = if at_once { machines.len() } else { 1 };
    let mut connections = try_join_all((0..number).map(|_| Connection::open(server))).await?;
    let mut measured = Vec::new();
    for round in 0..rounds {
        let requests = machines.iter().map(|machine| job(machine, round % 2 == 0));
        let started = Instant::now();
        let each = if at_once {
            let jobs = connections.iter_mut().zip(requests);
            let spawned = jobs.map(|(connection, request)| finish(connection, request));
            try_join_all(spawned).await?
        } else {
            let mut each = Vec::new();
            for request in requests {
                each.push(finish(&mut connections[0], request).await?);
            }
            each
        };
        measured.push(Round { wall: started.elapsed(), each });
    }
    Ok(json(&measured))
}

/// Makes the same changes on the host, without otter.
pub async fn run_raw(arguments: RawPowerArguments) -> anyhow::Result<Value> {
    let RawPowerArguments { host, rounds, connections } = arguments;
    let RoundArguments { machines, rounds, at_once } = rounds;
    let number = if at_once { connections.min(machines.len()) } else { 1 };
    let mut hosts = try_join_all((0..number).map(|_| Host::log_in(&host))).await?;
    let shares: Vec<Vec<&String>> =
        (0..number).map(|first| machines.iter().skip(first).step_by(number).collect()).collect();
    let mut measured = Vec::new();
    for round in 0..rounds {
        let on = round % 2 == 0;
        let started = Instant::now();
        let parts = hosts.iter_mut().zip(&shares).map(|(host, share)| async move {
            let mut each = Vec::new();
            for machine in share {
                let started = Instant::now();
                host.power(machine, on).await?;
                each.push(started.elapsed());
            }
            anyhow::Ok(each)
        });
        let each = try_join_all(parts).await?.concat();
        measured.push(Round { wall: started.elapsed(), each });
    }
    Ok(json(&measured))
}

fn job(machine: &str, on: bool) -> Vec<u8> {
    let action = if on { "on" } else { "off" };
    let path = format!("/v1/machines/{machine}/power?wait=2m");
    http::post(&path, &format!("{{\"action\":\"{action}\"}}"))
}

async fn finish(
    connection: &mut Connection<TcpStream>,
    request: Vec<u8>,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let answer = connection.exchange(&request).await?;
    let took = started.elapsed();
    answer.expect(200).context("a power job did not succeed")?;
    Ok(took)
}

fn json(rounds: &[Round]) -> Value {
    let rounds = rounds.iter().map(|Round { wall, each }| {
        let each: Vec<f64> = each.iter().copied().map(micros).collect();
        json!({"wall": micros(*wall), "micros": each})
    });
    json!({"rounds": rounds.collect::<Vec<_>>()})
}
