//! Names of users and groups, and ids that name nobody.

use std::fs;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};
use taskmint_attest::{AttestError, MAX_SELECTORS};
use taskmint_model::Selector;
use taskmint_peer::ProcessFacts;

use crate::{selector, selector_if_printable};

/// The kernel's own default for `/proc/sys/kernel/overflow{uid,gid}`.
const NOBODY: u32 = 65_534;

/// Ids that the kernel shows in place of those that have no number in this user namespace: one
/// number for many users. None where every id has its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unmapped {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Unmapped {
    /// As seen from this process's user namespace.
    pub(crate) fn here() -> Self {
        Self {
            uid: overflow("uid"),
            gid: overflow("gid"),
        }
    }

    /// Refuses a process whose user or group could be anybody.
    pub(crate) fn refuse(&self, facts: &ProcessFacts) -> Result<(), AttestError> {
        if self.uid != Some(facts.uid.effective) && self.gid != Some(facts.gid.effective) {
            return Ok(());
        }
        let pid = facts.process.pid;
        let detail =
            format!("the user or group of process {pid} has no number where the agent runs");
        Err(AttestError::Refused {
            reason: "PEER_USER_UNMAPPED",
            detail,
        })
    }

    /// The groups that have a number of their own.
    pub(crate) fn mapped_groups<'a>(&self, groups: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let unmapped = self.gid;
        groups
            .iter()
            .copied()
            .filter(move |gid| unmapped != Some(*gid))
    }
}

/// `user`, `group`, `supplementary_gid` and `supplementary_group`, in this order. May ask name
/// services, so it may block.
///
/// A name that can't be found out is left out: fewer selectors only match fewer entries.
///
/// # Errors
/// None that a number could cause.
pub(crate) fn selectors(
    facts: &ProcessFacts,
    unmapped: &Unmapped,
) -> Result<Vec<Selector>, AttestError> {
    let user = user_name(facts.uid.effective);
    let group = group_name(facts.gid.effective);
    let mut selectors: Vec<Selector> = [("user", user), ("group", group)]
        .into_iter()
        .filter_map(named)
        .collect();
    for gid in unmapped.mapped_groups(&facts.groups) {
        selectors.push(selector("supplementary_gid", gid)?);
    }
    let asked = unmapped.mapped_groups(&facts.groups).take(MAX_SELECTORS);
    selectors.extend(asked.filter_map(|gid| named(("supplementary_group", group_name(gid)))));
    Ok(selectors)
}

fn named((fact, name): (&str, Option<String>)) -> Option<Selector> {
    selector_if_printable(fact, &name?)
}

fn user_name(uid: u32) -> Option<String> {
    let user = known("user", uid, User::from_uid(Uid::from_raw(uid)))?;
    Some(user.name)
}

fn group_name(gid: u32) -> Option<String> {
    let group = known("group", gid, Group::from_gid(Gid::from_raw(gid)))?;
    Some(group.name)
}

fn known<T>(what: &str, id: u32, answer: Result<Option<T>, Errno>) -> Option<T> {
    answer.unwrap_or_else(|error| {
        tracing::warn!(what, id, %error, "its name can't be looked up");
        None
    })
}

fn overflow(kind: &str) -> Option<u32> {
    let map = fs::read_to_string(format!("/proc/self/{kind}_map"));
    if map.is_ok_and(|map| is_whole(&map)) {
        return None;
    }
    let number = fs::read_to_string(format!("/proc/sys/kernel/overflow{kind}"));
    Some(
        number
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(NOBODY),
    )
}

/// Whether a map gives every id its own number: that of the first user namespace does.
fn is_whole(map: &str) -> bool {
    let numbers: Option<Vec<u32>> = map
        .split_ascii_whitespace()
        .map(|number| number.parse().ok())
        .collect();
    numbers.is_some_and(|numbers| matches!(numbers.as_slice(), [_, _, u32::MAX]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskmint_peer::HeldProcess;

    #[test]
    fn only_the_whole_map_leaves_nobody_out() {
        assert!(is_whole("         0          0 4294967295\n"));
        for partial in [
            "",
            "0 1000 1\n",
            "0 100000 65536\n",
            "0 0 10\n10 10 4294967285\n",
            "x",
        ] {
            assert!(!is_whole(partial), "{partial}");
        }
    }

    #[test]
    fn a_user_that_could_be_anybody_is_refused() {
        let facts = HeldProcess::open(std::process::id())
            .unwrap()
            .facts()
            .unwrap();
        let (uid, gid) = (Some(facts.uid.effective), Some(facts.gid.effective));
        Unmapped {
            uid: None,
            gid: None,
        }
        .refuse(&facts)
        .unwrap();
        for unmapped in [Unmapped { uid, gid: None }, Unmapped { uid: None, gid }] {
            assert_eq!(
                unmapped.refuse(&facts).unwrap_err().reason(),
                "PEER_USER_UNMAPPED"
            );
        }
        let unmapped = Unmapped {
            uid: None,
            gid: Some(5),
        };
        assert!(unmapped.mapped_groups(&[4, 5, 6]).eq([4, 6]));
    }
}
