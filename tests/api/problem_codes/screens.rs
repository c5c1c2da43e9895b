//! Codes of screens and consoles.

use super::{Pair, Verdict, plan, side_by_side};
use crate::harness::Lab;
use crate::screens::viewer_client::{ViewerClient, viewer_path};

/// Provokes codes while no machine may have a viewer.
pub async fn without_room(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |settings| settings.screens.max_viewers = 0)).await;
    side_by_side(pairs, async |pair| pair.call().send(&lab).await).await
}

/// Provokes codes while another viewer drives each machine.
pub async fn while_another_drives(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    side_by_side(pairs, async |pair| {
        let machine = format!("name:{}", pair.operation.id);
        let path = viewer_path(&machine, "?mode=drive");
        let _driver = ViewerClient::open(&lab, &path, &[]).await.unwrap();
        pair.call().send(&lab).await
    })
    .await
}
