//! Codes of otter's limits and internal errors: each lab has one limit of zero or one.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use otter::simulator::Disruption;

use super::{Pair, Verdict, plan, side_by_side};
use crate::harness::{Daemon, Lab, send_raw};

/// Provokes codes while no job may be queued.
pub async fn no_queue(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |settings| settings.jobs.queue_in_all = 0)).await;
    side_by_side(pairs, async |pair| pair.call().send(&lab).await).await
}

/// Provokes codes while no call may wait.
pub async fn no_waits(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |settings| settings.http.max_waits = 0)).await;
    let job = super::Call::power(&pairs[0].operation.id).send(&lab).await.expect(202);
    let provoke = async |pair: &Pair| {
        let of_jobs = ["get_job", "wait_for_job"].iter().any(|operation| pair.is_of(operation));
        let call = if of_jobs { pair.operation.call(job.str("id")) } else { pair.call() };
        call.parameter("wait=1s").send(&lab).await
    };
    side_by_side(pairs, provoke).await
}

/// Provokes codes by a body that is announced and does not arrive.
pub async fn slow_bodies(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |settings| {
        settings.http.body_timeout = Duration::from_millis(100);
    }))
    .await;
    let provoke = async |pair: &Pair| {
        let call = pair.call();
        let head = "host: localhost\r\ncontent-type: application/json\r\ncontent-length: 100";
        send_raw(
            lab.address,
            format!("{} {} HTTP/1.1\r\n{head}\r\n\r\n{{", call.method, call.target()),
        )
        .await
    };
    side_by_side(pairs, provoke).await
}

/// Provokes codes by a panic in every handler.
pub async fn panics(pairs: Vec<Pair>) -> Vec<Verdict> {
    let daemon = Daemon::start(&["--simulate"], &[("FAILPOINTS", "request=panic")]).await;
    side_by_side(pairs, async |pair| pair.call().send_to(&daemon).await).await
}

/// Provokes codes by more simultaneous reads than may wait, of a host that does not answer. otter
/// refuses one read at once.
pub async fn direct_reads(pairs: Vec<Pair>) -> Vec<Verdict> {
    const ENOUGH: usize = 4 + 32 + 1;
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    lab.control().disrupt("RetrievePropertiesEx", 0, None, Disruption::NeverAnswer { run: false });
    let provoke = async |pair: &Pair| {
        let mut reads: FuturesUnordered<_> = (0..ENOUGH).map(|_| pair.call().send(&lab)).collect();
        reads.next().await.unwrap()
    };
    side_by_side(pairs, provoke).await
}
