//! The pictures of a frame as PNG: each is encoded once for all who ask.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore};

use super::png;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::screen::{Picture, Region};

/// The most pictures that are kept of one frame.
const MAX_KEPT: usize = 8;

/// Permits to encode a picture, which takes three times the memory of its pixels.
static ENCODINGS: Semaphore = Semaphore::const_new(4);

/// A part of a frame, and its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PictureRequest {
    /// `None`: the whole screen. The region is on the screen.
    pub region: Option<Region>,
    /// The width of the picture, if it is smaller than the region. `None`: no scaling.
    pub width: Option<u16>,
}

/// A picture as PNG.
#[derive(Clone, Debug)]
pub struct EncodedPicture {
    pub png: Bytes,
    /// The SHA-256 of the size and the pixels.
    pub digest: [u8; 32],
}

/// The encoded pictures of one frame.
#[derive(Debug, Default)]
pub struct EncodedPictures(Mutex<Vec<Kept>>);

type Kept = (PictureRequest, Arc<OnceCell<EncodedPicture>>);

impl EncodedPictures {
    /// A picture of the frame as PNG. Callers that ask for the same picture share one encoding.
    ///
    /// # Parameters
    /// - `whole`: the picture of the whole frame.
    ///
    /// # Errors
    /// `internal` if the picture could not be encoded.
    pub async fn png(
        &self,
        whole: Picture,
        request: PictureRequest,
    ) -> Result<EncodedPicture, Failure> {
        let cell = self.cell(request);
        let encode = async {
            // The semaphore is never closed. The encoding keeps the permit, also if its caller
            // hangs up.
            let permit = ENCODINGS.acquire().await.ok();
            // Encoding takes some milliseconds, which would delay the other tasks of the thread.
            let encoding = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                encode(&whole, request)
            });
            encoding.await.unwrap_or_else(|error| Err(not_encoded(&error)))
        };
        cell.get_or_try_init(|| encode).await.cloned()
    }

    fn cell(&self, request: PictureRequest) -> Arc<OnceCell<EncodedPicture>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cell)) = kept.iter().find(|(known, _)| *known == request) {
            return Arc::clone(cell);
        }
        if kept.len() >= MAX_KEPT {
            kept.remove(0);
        }
        let cell = Arc::default();
        kept.push((request, Arc::clone(&cell)));
        cell
    }
}

fn encode(picture: &Picture, request: PictureRequest) -> Result<EncodedPicture, Failure> {
    let PictureRequest { region, width } = request;
    let cropped = region.map_or_else(|| picture.clone(), |region| picture.crop(region));
    let picture = match width {
        Some(width) if width < cropped.size.width => cropped.scale_to_width(width),
        _ => cropped,
    };
    let mut hash = Sha256::new();
    hash.update(picture.size.width.to_be_bytes());
    hash.update(picture.size.height.to_be_bytes());
    hash.update(&picture.pixels);
    let png = png::encode(&picture).map_err(|error| not_encoded(&error))?;
    Ok(EncodedPicture { png, digest: hash.finalize().into() })
}

fn not_encoded(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Internal, format!("the picture could not be encoded: {error}"))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::domain::screen::ScreenSize;

    #[test]
    fn four_pictures_are_encoded_at_once() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let four = ENCODINGS.acquire_many(4).await.unwrap();
            assert!(ENCODINGS.try_acquire().is_err(), "there are more than four permits");
            let pictures = EncodedPictures::default();
            let whole = Picture::blank(ScreenSize::new(64, 16));
            let mut fifth = Box::pin(pictures.png(whole, PictureRequest::default()));
            assert!(fifth.as_mut().now_or_never().is_none());
            // The only thread for such work does it in order: an encoding would be done before.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert!(fifth.as_mut().now_or_never().is_none(), "a fifth picture was encoded");
            drop(four);
            fifth.await.unwrap();
        });
    }

    #[tokio::test]
    async fn more_callers_than_permits_all_get_their_picture() {
        let pictures = EncodedPictures::default();
        let whole = Picture::blank(ScreenSize::new(64, 16));
        let encoded = (1..=20).map(|width| {
            let request = PictureRequest { region: None, width: Some(width) };
            pictures.png(whole.clone(), request)
        });
        for (width, encoded) in (1..).zip(join_all(encoded).await) {
            assert_eq!(png::size(&encoded.unwrap().png).unwrap().width, width);
        }
    }
}
