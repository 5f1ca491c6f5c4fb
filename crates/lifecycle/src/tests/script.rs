//! Readable cases: a script, and what it comes to.
//!
//! Steps are separated by `;`. Tasks are named by a word. The outcome is the reasons of all refused
//! steps, then every task with its state.

use std::collections::BTreeMap;

use taskmint_model::{Actor, Cause, Limits, State, TaskId, TaskKind};

use super::world::{World, ask, authority, node, secs};
use crate::{Ask, Refusal, lifetime, successor_due};

/// Runs a script and compares what it comes to.
#[track_caller]
pub(super) fn check(script: &str, expected: &str) {
    let mut stage = Stage {
        world: World::new(),
        names: BTreeMap::new(),
    };
    let mut outcome = Vec::new();
    for step in script.split(';') {
        let words: Vec<&str> = step.split_whitespace().collect();
        if let Err(refusal) = stage.step(&words) {
            assert!(!refusal.fix().is_empty());
            outcome.push(refusal.reason().to_owned());
        }
    }
    outcome.push("|".to_owned());
    for (name, id) in &stage.names {
        let state = match &stage.world.task(*id).state {
            State::Ended { cause, .. } => cause.name().to_owned(),
            state => state.name().to_owned(),
        };
        outcome.push(format!("{name}:{state}"));
    }
    assert_eq!(outcome.join(" "), expected, "{script}");
}

struct Stage {
    world: World,
    names: BTreeMap<String, TaskId>,
}

impl Stage {
    fn step(&mut self, words: &[&str]) -> Result<(), Refusal> {
        let world = &mut self.world;
        match *words {
            ["begin", name, ref options @ ..] => {
                let id = world.begin(options_of(options))?;
                self.names.insert(name.to_owned(), id);
            }
            ["delegate", parent, name, ref options @ ..] => {
                let id = world.begin_below(Some(self.names[parent]), options_of(options))?;
                self.names.insert(name.to_owned(), id);
            }
            ["succeed", old, name] => {
                let id = world.succeed(self.names[old])?;
                self.names.insert(name.to_owned(), id);
            }
            ["extend", name, ttl] => {
                world.extend(self.names[name], secs(ttl.parse().unwrap()))?;
            }
            ["suspend", name, by] => {
                let by = actor(&self.names, by);
                world.suspend(self.names[name], by)?;
            }
            ["resume", name, by] => {
                let by = actor(&self.names, by);
                world.resume(self.names[name], by)?;
            }
            ["end", name, cause] => {
                let cause = Cause::from_name(cause).unwrap();
                world.end(self.names[name], cause, Actor::Holder)?;
            }
            ["mint", name] => {
                let task = world.task(self.names[name]);
                lifetime(task, secs(600), secs(3600), secs(30), world.now)?;
            }
            ["pass", time] => world.now = world.now + secs(time.parse().unwrap()),
            ["sweep"] => world.sweep(),
            ["due", name] => assert!(successor_due(world.task(self.names[name]), world.now)),
            ["not-due", name] => assert!(!successor_due(world.task(self.names[name]), world.now)),
            ["barred", name] => assert!(world.barred.contains(&self.names[name])),
            ["lifted", name] => assert!(world.lifted.contains(&self.names[name])),
            ["not-barred", name] => assert!(!world.barred.contains(&self.names[name])),
            _ => panic!("no such step: {words:?}"),
        }
        Ok(())
    }
}

fn actor(names: &BTreeMap<String, TaskId>, word: &str) -> Actor {
    match word {
        "holder" => Actor::Holder,
        "node" => Actor::Node(node()),
        "admin" => Actor::Admin("root".to_owned()),
        "issuer" => Actor::Issuer,
        name => Actor::Ancestor(names[name]),
    }
}

fn options_of(options: &[&str]) -> Ask {
    let kind = match options.first() {
        Some(&"implicit") => TaskKind::Implicit,
        Some(&"node") => TaskKind::Node,
        Some(&"server") => TaskKind::Server,
        _ => TaskKind::Explicit,
    };
    let mut ask = ask(kind);
    let mut limits = Limits {
        children: 1,
        depth: 1,
    };
    for option in options {
        let Some((key, value)) = option.split_once('=') else {
            continue;
        };
        let number = || value.parse::<u64>().unwrap();
        match key {
            "scope" => {
                let scopes: Vec<_> = value.split(',').filter(|scope| !scope.is_empty()).collect();
                ask.authority = Some(authority(&scopes, &[]));
            }
            "audience" => ask.authority = Some(authority(&[], &[value])),
            "ttl" => ask.ttl = Some(secs(number())),
            "limit" => ask.limit = Some(secs(number())),
            "children" => limits.children = u32::try_from(number()).unwrap(),
            "depth" => limits.depth = u8::try_from(number()).unwrap(),
            _ => panic!("no such option: {option}"),
        }
        if matches!(key, "children" | "depth") {
            ask.limits = Some(limits);
        }
    }
    ask
}

#[test]
fn a_task_begins_and_ends_once() {
    check("begin a", "| a:live");
    check("begin a; end a completed", "| a:completed");
    check(
        "begin a; end a failed; end a completed",
        "ALREADY_ENDED | a:failed",
    );
    check(
        "begin a; end a cancelled; end a cancelled",
        "ALREADY_ENDED | a:cancelled",
    );
    check("begin a node; end a revoked", "| a:revoked");
}

#[test]
fn an_ended_task_can_do_nothing() {
    check(
        "begin a; end a revoked; mint a; extend a 7200; delegate a b; suspend a admin; resume a admin",
        "TASK_ENDED TASK_ENDED TASK_ENDED TASK_ENDED TASK_ENDED | a:revoked",
    );
}

#[test]
fn an_end_ends_everything_below_and_nothing_beside() {
    check(
        "begin a; delegate a b; delegate b c; delegate a d; begin e; end b completed",
        "| a:live b:completed c:parent_ended d:live e:live",
    );
    check(
        "begin a; delegate a b; delegate b c; suspend c holder; end a failed",
        "| a:failed b:parent_ended c:parent_ended",
    );
}

#[test]
fn a_child_gets_no_more_than_its_parent() {
    let begin = "begin a scope=a,b ttl=600 limit=1200; ";
    for (delegation, expected) in [
        ("delegate a b scope=a", "| a:live b:live"),
        ("delegate a b scope=", "| a:live b:live"),
        ("delegate a b scope=c", "BEYOND_AUTHORITY | a:live"),
        ("delegate a b audience=x", "BEYOND_AUTHORITY | a:live"),
        ("delegate a b ttl=600", "| a:live b:live"),
        ("delegate a b ttl=601", "BEYOND_PARENT | a:live"),
        ("delegate a b ttl=1201", "BEYOND_LIMIT | a:live"),
        ("delegate a b limit=1201", "BEYOND_LIMIT | a:live"),
        ("pass 1; delegate a b ttl=600", "BEYOND_PARENT | a:live"),
        (
            "delegate a b; extend b 601",
            "BEYOND_PARENT | a:live b:live",
        ),
        (
            "delegate a b; extend a 1200; extend b 1200",
            "| a:live b:live",
        ),
        (
            "delegate a b limit=700; extend a 1200; extend b 701",
            "BEYOND_LIMIT | a:live b:live",
        ),
    ] {
        check(&format!("{begin}{delegation}"), expected);
    }
}

#[test]
fn the_number_and_depth_of_children_are_bounded() {
    check(
        "begin a children=1; delegate a b; delegate a c; end b completed; delegate a d",
        "TOO_MANY_CHILDREN | a:live b:completed d:live",
    );
    check(
        "begin a; delegate a b; delegate b c; delegate c d; delegate d e",
        "TOO_DEEP | a:live b:live c:live d:live",
    );
    check(
        "begin a depth=0 children=1; delegate a b",
        "TOO_DEEP | a:live",
    );
    check("begin a children=4", "TOO_MANY_CHILDREN |");
    check("begin a depth=4", "TOO_DEEP |");
    check("begin a depth=2; delegate a b depth=2", "TOO_DEEP | a:live");
    check(
        "begin a children=2; delegate a b children=3",
        "TOO_MANY_CHILDREN | a:live",
    );
}

#[test]
fn a_deadline_moves_out_to_the_limit_and_never_in() {
    check("begin a ttl=60 limit=120; pass 59; extend a 61", "| a:live");
    check(
        "begin a ttl=60 limit=120; pass 59; extend a 62",
        "BEYOND_LIMIT | a:live",
    );
    check("begin a ttl=60; extend a 59", "DEADLINE_EARLIER | a:live");
    check("begin a ttl=60; extend a 60", "| a:live");
    check(
        "begin a ttl=60; pass 60; extend a 60",
        "DEADLINE_PASSED | a:live",
    );
}

#[test]
fn past_its_deadline_nothing_is_minted_though_no_end_is_written_yet() {
    check(
        "begin a ttl=60; pass 60; mint a; delegate a b; suspend a admin; sweep; mint a",
        "DEADLINE_PASSED DEADLINE_PASSED DEADLINE_PASSED TASK_ENDED | a:expired",
    );
}

#[test]
fn an_expiry_takes_the_tree_with_it() {
    check(
        "begin a ttl=60; delegate a b ttl=30; delegate a c; pass 30; sweep; pass 30; sweep",
        "| a:expired b:expired c:parent_ended",
    );
}

#[test]
fn nodes_and_servers_neither_have_parents_nor_children() {
    check(
        "begin a node; delegate a b",
        "DELEGATION_NOT_ALLOWED | a:live",
    );
    check(
        "begin a; delegate a b node",
        "DELEGATION_NOT_ALLOWED | a:live",
    );
    check(
        "begin a server; delegate a b server",
        "DELEGATION_NOT_ALLOWED | a:live",
    );
    check(
        "begin a; delegate a b implicit",
        "DELEGATION_NOT_ALLOWED | a:live",
    );
    check("begin a implicit; delegate a b", "| a:live b:live");
    check("begin a node scope=a", "BEYOND_AUTHORITY |");
}
