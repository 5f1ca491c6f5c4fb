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
pub(super) enum FrameError {
    #[error("a frame is empty")]
    Empty,
    #[error("a head is malformed")]
    Head(#[from] HeadError),
    #[error("a checkpoint is malformed")]
    Checkpoint(#[from] CheckpointError),
    #[error("records are malformed")]
    Delta(#[from] DeltaError),
    #[error("the log's key is refused")]
    Key(#[from] KeyRefused),
}

/// Reads a frame; a key certificate that it brings is judged and kept in `keys`.
pub(super) fn read(
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
