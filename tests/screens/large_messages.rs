//! What a client of a WebSocket gets that sends a message which is too large: of a screen, and of a
//! serial port.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::RUNNING;
use super::viewer_client::{open_socket, viewer_path};
use crate::harness::{Lab, TIMEOUT};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_ends_the_connection_with_its_code() {
    let lab = Lab::start().await;
    let serial = format!("/v1/machines/{RUNNING}/serial/ttyS1/stream");
    for path in [viewer_path(RUNNING, ""), serial] {
        let (socket, _) = open_socket(lab.address, &path, &[]).await.unwrap();
        let (mut sink, mut stream) = socket.split();
        // otter reads only the beginning of the message, so that the rest may never be sent.
        let sending = tokio::spawn(async move {
            let large = Message::Binary(vec![0; 256 * 1_024 + 1].into());
            let _ = sink.send(large).await;
        });
        let closed = async {
            loop {
                if let Message::Close(frame) = stream.next().await.unwrap().unwrap() {
                    return frame.expect("a code").code;
                }
            }
        };
        let code = tokio::time::timeout(TIMEOUT, closed).await.expect("the end");
        assert_eq!(u16::from(code), 1009, "{path}");
        sending.abort();
    }
}
