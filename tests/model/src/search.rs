//! The world as `stateright` searches it: what can happen next, and what must hold.

use stateright::{Model, Property};

use crate::history::{Chain, Head, Place, Record};
use crate::verifier::{Frame, Refusal, Verifier};
use crate::world::{Action, HOUR_ENDS, World};
use crate::{Guards, Scope};

/// A receipt's word: who applied an end doesn't accept the place again, not even after a restart.
pub const APPLIED_IS_REFUSED: &str = "what a receipt says applied is refused there";
/// The bound: past `dead_everywhere_by` no verifier accepts.
pub const DEAD_EVERYWHERE: &str = "past dead_everywhere_by nobody accepts";
/// An acknowledged end stays in the log, or the log is replaced.
pub const ENDS_ARE_FINAL: &str = "an acknowledged end is final";
/// What is accepted was issued, by a record on disk.
pub const NEVER_VALID: &str = "what was never valid is never accepted";
/// One place, one task.
pub const PLACE_ONCE: &str = "no place is handed out twice";
/// An honest log looks like one, whatever a relay does.
pub const NO_FALSE_FORK: &str = "no relay makes the log look forked";
/// A live task is accepted: the model isn't one that refuses everything.
pub const LIVE_ACCEPTED: &str = "a live task is accepted";
/// A verifier that is cut off refuses a live task.
pub const STALE_REFUSED: &str = "a live task is refused for staleness";
/// A receipt can name a verifier.
pub const RECEIPT_APPLIED: &str = "a receipt names who applied the end";
/// An end that isn't known yet is accepted within the bound.
pub const LATE_ACCEPTED: &str = "an ended task is accepted within the bound";

/// Made-up records that wait for a head, at most.
const STAGED: u8 = 2;

/// A search: what may happen, and which guards stand.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// What may happen.
    pub scope: Scope,
    /// Which guards stand.
    pub guards: Guards,
}

impl Model for Search {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.server_actions(world, actions);
        for (at, verifier) in world.verifiers.iter().enumerate() {
            self.verifier_actions(world, at, verifier, actions);
            if verifier.connected {
                self.frames(world, at, verifier, actions);
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        // A refused frame is a step, too: the verifier is disconnected by it.
        let _refused = next.step(action, self.guards);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(APPLIED_IS_REFUSED, applied_is_refused),
            Property::always(DEAD_EVERYWHERE, dead_everywhere),
            Property::always(ENDS_ARE_FINAL, ends_are_final),
            Property::always(NEVER_VALID, never_valid),
            Property::always(PLACE_ONCE, place_once),
            Property::always(NO_FALSE_FORK, no_false_fork),
            Property::sometimes(LIVE_ACCEPTED, live_accepted),
            Property::sometimes(STALE_REFUSED, stale_refused),
        ];
        if self.scope.ends.contains(&true) && self.scope.minted.contains(&true) {
            properties.push(Property::sometimes(RECEIPT_APPLIED, receipt_applied));
            properties.push(Property::sometimes(LATE_ACCEPTED, late_accepted));
        }
        properties
    }
}

impl Search {
    /// The world at its start.
    #[must_use]
    pub fn begin(&self) -> World {
        World::new(self.scope.verifiers, self.scope.minted, self.guards)
    }

    fn server_actions(&self, world: &World, actions: &mut Vec<Action>) {
        let (scope, server) = (&self.scope, &world.server);
        if world.now < scope.horizon {
            actions.push(Action::Tick);
        }
        if scope.restores && world.crashes < scope.crashes && server.generation == 1 {
            actions.extend((0..=server.synced).map(|to| Action::Restore { to }));
        }
        if !server.up {
            let clocks = scope.clocks.iter();
            actions.extend(clocks.map(|clock| Action::Start { clock: *clock }));
            return;
        }
        if world.crashes < scope.crashes && !scope.clocks.is_empty() {
            actions.push(Action::Crash);
        }
        if server.is_dirty() {
            actions.push(Action::Sync);
        }
        if server.written.len() + 2 > Chain::MAX {
            return;
        }
        for (bucket, (ends, mints)) in (0..).zip(scope.ends.into_iter().zip(scope.mints)) {
            let over = bucket == 0 && world.now >= HOUR_ENDS;
            if ends && server.is_live(bucket) {
                actions.push(Action::End(bucket));
            }
            if mints && !over && !server.has(bucket, false) {
                actions.push(Action::Mint(bucket));
            }
        }
        if scope.floor && world.now >= HOUR_ENDS && server.written.statuses().floor == 0 {
            actions.push(Action::RaiseFloor);
        }
    }

    fn verifier_actions(
        &self,
        world: &World,
        at: usize,
        verifier: &Verifier,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Connect(at));
        if verifier.connected && verifier.asked.is_none() {
            actions.push(Action::Ask(at));
        }
        if verifier.asked.is_some() && world.server.up {
            actions.push(Action::Answer(at));
        }
        if verifier.acknowledged.is_some() && world.server.up {
            actions.push(Action::Acknowledge(at));
        }
        if world.restarts < self.scope.restarts {
            actions.push(Action::Restart(at));
        }
    }

    /// What a relay can deliver: anything that was ever sent, and what it makes up.
    fn frames(&self, world: &World, at: usize, verifier: &Verifier, actions: &mut Vec<Action>) {
        let mut push = |frame| actions.push(Action::Deliver(at, frame));
        let genuine = |head, answer| Frame::Head {
            head,
            answer,
            forged: false,
        };
        world.heads.iter().for_each(|h| push(genuine(*h, false)));
        let answers = world.answers.get(at);
        answers
            .into_iter()
            .flatten()
            .for_each(|head| push(genuine(*head, true)));
        for (generation, chain) in world.positions() {
            push(Frame::Checkpoint {
                generation,
                chain,
                forged: false,
            });
        }
        if let Some((generation, staged)) = verifier.staged() {
            for record in true_records(world, generation, staged) {
                push(Frame::Record {
                    sequence: staged.len() + 1,
                    record,
                });
            }
        }
        if self.scope.forges {
            forged(world, verifier, &mut push);
        }
    }
}

/// The records that really follow. More than one only where a log was written twice.
fn true_records(world: &World, generation: u8, staged: Chain) -> Vec<Record> {
    let mut records: Vec<_> = world
        .positions()
        .filter(|(log, chain)| *log == generation && staged.leads_to(*chain))
        .filter_map(|(_, chain)| chain.record(staged.len() + 1))
        .collect();
    records.sort_unstable();
    records.dedup();
    records
}

/// Heads that look new, checkpoints with maps in which nothing ended, and any record at all: the
/// next one, one that was there before, and one too far ahead.
fn forged(world: &World, verifier: &Verifier, push: &mut impl FnMut(Frame)) {
    for (generation, chain) in world.positions() {
        let time = world.now as i8 + world.server.clock;
        let head = Head {
            generation,
            chain,
            time,
        };
        let nonces = if verifier.asked.is_some() { 2 } else { 1 };
        for answer in [false, true].into_iter().take(nonces) {
            push(Frame::Head {
                head,
                answer,
                forged: true,
            });
        }
        if chain.statuses() != chain.statuses().without_ends() {
            push(Frame::Checkpoint {
                generation,
                chain,
                forged: true,
            });
        }
    }
    let Some(((_, chain), (_, staged))) = verifier.position().zip(verifier.staged()) else {
        return;
    };
    let last = staged.len();
    if last + 2 > Chain::MAX {
        return;
    }
    push(Frame::Record {
        sequence: last + 2,
        record: Record::Epoch,
    });
    for record in Record::ALL {
        if last > 0 {
            push(Frame::Record {
                sequence: last,
                record,
            });
        }
        if last - chain.len() < STAGED {
            push(Frame::Record {
                sequence: last + 1,
                record,
            });
        }
    }
}

/// Every verifier, with a place that it accepts now.
fn accepted<'a>(search: &'a Search, world: &'a World) -> impl Iterator<Item = (usize, Place)> + 'a {
    let verifiers = 0..world.verifiers.len();
    verifiers
        .flat_map(|verifier| Place::all().map(move |place| (verifier, place)))
        .filter(|(verifier, place)| world.accepts(*verifier, *place, search.guards))
}

fn applied_is_refused(search: &Search, world: &World) -> bool {
    accepted(search, world).all(|(verifier, place)| {
        let receipt = world.fate(place).receipt;
        receipt.is_none_or(|receipt| !receipt.is_applied(verifier))
    })
}

fn dead_everywhere(search: &Search, world: &World) -> bool {
    accepted(search, world).all(|(_, place)| {
        let receipt = world.fate(place).receipt;
        receipt.is_none_or(|receipt| world.now <= receipt.dead_by)
    })
}

fn ends_are_final(_: &Search, world: &World) -> bool {
    let statuses = world.server.durable().statuses();
    let kept = |place: &Place| {
        statuses.is_ended(place.bucket)
            || place.bucket < statuses.floor
            || world.fate(*place).receipt.is_none()
    };
    !world.server.up
        || Place::all()
            .filter(|place| place.generation == world.server.generation)
            .all(|place| kept(&place))
}

fn never_valid(search: &Search, world: &World) -> bool {
    accepted(search, world).all(|(_, place)| {
        let fate = world.fate(place);
        fate.recorded || !fate.handed
    })
}

fn place_once(_: &Search, world: &World) -> bool {
    Place::all().all(|place| !world.fate(place).twice)
}

fn no_false_fork(_: &Search, world: &World) -> bool {
    !world.verifiers.iter().any(Verifier::is_forked)
}

fn live_accepted(search: &Search, world: &World) -> bool {
    accepted(search, world).any(|(_, place)| is_live(world, place))
}

fn stale_refused(search: &Search, world: &World) -> bool {
    let stale = |verifier: &Verifier, place| {
        verifier.check(place, search.guards, world.now) == Err(Refusal::Stale)
    };
    Place::all()
        .filter(|place| is_live(world, *place))
        .any(|place| {
            world
                .verifiers
                .iter()
                .any(|verifier| stale(verifier, place))
        })
}

fn receipt_applied(_: &Search, world: &World) -> bool {
    let receipts = Place::all().filter_map(|place| world.fate(place).receipt);
    receipts.into_iter().any(|receipt| receipt.is_applied(0))
}

fn late_accepted(search: &Search, world: &World) -> bool {
    accepted(search, world).any(|(_, place)| world.fate(place).receipt.is_some())
}

fn is_live(world: &World, place: Place) -> bool {
    let fate = world.fate(place);
    fate.handed && fate.receipt.is_none()
}
