//! Who started a process: the walk up its parents.

use crate::error::{AncestryError, ProcessError};
use crate::held::HeldProcess;
use crate::peer::Peer;

/// The most processes of one ancestry, the peer included.
pub const MAX_ANCESTRY: usize = 128;

/// Parents exit while they are walked, for good reasons; this often in a row for none.
const ATTEMPTS: usize = 8;

/// The peer and its ancestors, nearest first: element 0 is the peer itself.
///
/// Each is held by a pidfd, and after the walk every link is read again. A process whose parent
/// exits is handed to another before the parent's pid is free, so a link that reads the same
/// before and after its parent was held is no reused pid.
///
/// A process that outlives its parent is handed to the nearest subreaper: whoever wants to be out
/// of reach of an ancestor can be. So absence from an ancestry proves nothing.
///
/// # Errors
/// If a process on the way can't be read, the ancestry is deeper than [`MAX_ANCESTRY`], or it
/// keeps changing.
pub fn ancestry(peer: &Peer) -> Result<Vec<HeldProcess>, AncestryError> {
    settled(peer, walk)
}

/// Walks until nothing has changed between the walk and the look after it.
fn settled(
    peer: &Peer,
    mut walk: impl FnMut(&HeldProcess) -> Result<Vec<HeldProcess>, AncestryError>,
) -> Result<Vec<HeldProcess>, AncestryError> {
    for _ in 0..ATTEMPTS {
        match walk(peer.held()) {
            Ok(chain) if is_unchanged(&chain)? => return Ok(chain),
            Ok(_) => {}
            // An ancestor left while we walked: the way up is another one now.
            Err(AncestryError::Process(ProcessError::Gone(_))) if peer.is_alive() => {}
            Err(error) => return Err(error),
        }
    }
    Err(AncestryError::Unstable(peer.pid()))
}

fn walk(peer: &HeldProcess) -> Result<Vec<HeldProcess>, AncestryError> {
    let mut chain = vec![peer.clone()];
    let mut above = peer.parent()?;
    while above != 0 {
        if chain.len() == MAX_ANCESTRY {
            return Err(AncestryError::TooDeep(peer.pid()));
        }
        let (parent, next) = HeldProcess::open_with_parent(above)?;
        chain.push(parent);
        above = next;
    }
    Ok(chain)
}

/// Whether every process still lives and still has the parent that was found.
fn is_unchanged(chain: &[HeldProcess]) -> Result<bool, ProcessError> {
    let parents = chain
        .iter()
        .skip(1)
        .map(HeldProcess::process)
        .map(Some)
        .chain([None]);
    for (child, parent) in chain.iter().zip(parents) {
        let now = match child.parent() {
            Ok(now) => now,
            Err(error) if error.is_gone() => return Ok(false),
            Err(error) => return Err(error),
        };
        // A parent that started after its child is none: only a reused pid looks like that.
        let fits = parent.is_none_or(|parent| parent.start_time <= child.process().start_time);
        if now != parent.map_or(0, |parent| parent.pid) || !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Actor, Socket};

    async fn peer_of(script: &str) -> (Actor, Peer) {
        let socket = Socket::bind().unwrap();
        let actor = Actor::script_connected(&socket, script).unwrap();
        (actor, Peer::of(&socket.accept().await.unwrap()).unwrap())
    }

    #[tokio::test]
    async fn a_walk_leads_from_the_peer_to_the_first_process() {
        let (_actor, peer) = peer_of("read go").await;
        let pids: Vec<u32> = ancestry(&peer)
            .unwrap()
            .iter()
            .map(HeldProcess::pid)
            .collect();
        assert_eq!(pids[..2], [peer.pid(), std::process::id()]);
        let last = HeldProcess::open(*pids.last().unwrap()).unwrap();
        assert_eq!(last.parent().unwrap(), 0);
    }

    #[tokio::test]
    async fn an_ancestry_that_changed_is_not_believed() {
        let (mut actor, peer) = peer_of("read go").await;
        let chain = ancestry(&peer).unwrap();
        // A stranger in the parent's place: what a walk over a reused pid would have found.
        let stranger = Actor::sleeping().unwrap();
        let mut forged = chain.clone();
        forged[1] = HeldProcess::open(stranger.pid()).unwrap();
        let error = settled(&peer, |_| Ok(forged.clone())).unwrap_err();
        assert!(matches!(error, AncestryError::Unstable(_)), "{error}");
        let mut walks = vec![chain.clone(), forged];
        let found = settled(&peer, |_| Ok(walks.pop().unwrap())).unwrap();
        assert!(
            found
                .iter()
                .map(HeldProcess::pid)
                .eq(chain.iter().map(HeldProcess::pid))
        );
        actor.end().unwrap();
        assert!(matches!(
            ancestry(&peer).unwrap_err(),
            AncestryError::Process(ProcessError::Gone(_))
        ));
    }

    #[tokio::test]
    async fn an_orphan_has_the_ancestry_of_who_took_it_in() {
        let (actor, shell) = peer_of("sleep 1000 & echo $!; read go").await;
        let orphan = shell.child(actor.line().unwrap().parse().unwrap()).unwrap();
        assert_eq!(ancestry(&orphan).unwrap()[1].process(), shell.process());
        drop(actor);
        let chain = ancestry(&orphan).unwrap();
        assert!(chain.iter().all(|held| held.process() != shell.process()));
        assert!(chain.iter().all(HeldProcess::is_alive));
        Actor::kill_stranger(orphan.held()).unwrap();
    }

    #[tokio::test]
    async fn a_deep_ancestry_is_refused() {
        // Each shell starts the next and waits; `exit` keeps it from replacing itself.
        let deep =
            r#"n=$1; if [ "$n" -gt 0 ]; then sh -c "$0" "$0" $((n-1)); exit; fi; echo $$; read go"#;
        let script = format!("d='{deep}'; sh -c \"$d\" \"$d\" 140; exit");
        let (actor, _peer) = peer_of(&script).await;
        let deepest = HeldProcess::open(actor.line().unwrap().parse().unwrap()).unwrap();
        assert!(matches!(
            walk(&deepest).unwrap_err(),
            AncestryError::TooDeep(_)
        ));
    }
}
