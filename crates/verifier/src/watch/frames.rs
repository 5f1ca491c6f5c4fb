//! Frames off the wire.

use taskmint_status::checkpoint::{CheckpointError, PackedMap};
use taskmint_status::delta::DeltaError;
use taskmint_status::head::HeadError;
use taskmint_status::{Delta, Frame, SignedCheckpoint, SignedHead};
use taskmint_wire::revocation as wire;
use taskmint_wire::revocation::watch_response::Frame as WireFrame;

use super::keys::{KeyRefused, LogKeys};
use crate::Trust;
use taskmint_model::Timestamp;

/// Why a frame is not even handed to the watcher.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// None of the frames that there are.
    #[error("a frame is empty")]
    Empty,
    /// Of another length.
    #[error("a head is malformed")]
    Head(#[from] HeadError),
    /// Of another length, or not legible.
    #[error("a checkpoint is malformed")]
    Checkpoint(#[from] CheckpointError),
    /// Not records back to back.
    #[error("records are malformed")]
    Delta(#[from] DeltaError),
    /// Nobody vouches for it.
    #[error("the log's key is refused")]
    Key(#[from] KeyRefused),
}

/// Reads a frame; a key certificate that it brings is judged by `trust` and kept in `keys`. Whose
/// signature it bears is for the [`Watcher`](taskmint_status::Watcher) to check.
///
/// # Errors
/// [`FrameError`].
pub fn read_frame(
    response: wire::WatchResponse,
    keys: &mut LogKeys,
    trust: &Trust,
    now: Timestamp,
) -> Result<Frame, FrameError> {
    match response.frame.ok_or(FrameError::Empty)? {
        WireFrame::Head(head) => {
            let key = keys.named(&head.key_certificate, trust, now)?;
            Ok(Frame::Head(SignedHead::from_parts(
                head.body.into(),
                &head.signature,
                &key.0,
            )?))
        }
        WireFrame::Checkpoint(checkpoint) => {
            let key = keys.named(&checkpoint.key_certificate, trust, now)?;
            let body = checkpoint.body.into();
            let signed = SignedCheckpoint::from_parts(body, &checkpoint.signature, &key.0)?;
            let packed = |map: wire::Map| PackedMap {
                bucket: map.bucket,
                bytes: map.data.into(),
            };
            Ok(Frame::Checkpoint {
                signed,
                maps: checkpoint.maps.into_iter().map(packed).collect(),
            })
        }
        // `first` and `last` serve relays; the records say it themselves.
        WireFrame::Delta(delta) => Ok(Frame::Delta(Delta::decode(&delta.records)?)),
    }
}
