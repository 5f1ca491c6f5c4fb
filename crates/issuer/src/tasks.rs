//! What happens to a task after it began: extend, suspend, resume, end.

use std::time::Duration;

use taskmint_lifecycle::{self as lifecycle, Changes, Tree};
use taskmint_model::{Actor, Bar, Task, TaskId, TaskKind, Timestamp};
use taskmint_store::{Change, Commit, CommitError, Expect, StatusChange, TaskQuery};

use crate::begin::ATTEMPTS;
use crate::refused::{RefusalKind, Refused};
use crate::requests::{Asked, RequestMark};
use crate::{Cause, Issuer, Principal};

/// The most tasks of one tree: deeper or wider ones are refused at begin by their limits.
const MAX_TREE: usize = 1_000_000;

/// The most tasks that are ended at once because they are due.
const DUE: usize = 1024;

impl Issuer {
    /// One task, if this principal may know of it.
    ///
    /// # Errors
    /// `NO_SUCH_TASK`: also where it exists, but is none of the principal's.
    pub async fn visible_task(&self, who: &Principal, id: TaskId) -> Result<Task, Refused> {
        let task = self.store.task(id).await?.ok_or_else(Refused::no_task)?;
        let visible = match who {
            Principal::Admin(_) | Principal::Issuer => true,
            Principal::Node(node) => task.holder.node.as_ref() == Some(node),
            Principal::Workload(caller) => task.holder.node.as_ref() == Some(&caller.node),
            Principal::Watcher(_) => false,
        };
        if visible {
            Ok(task)
        } else {
            Err(Refused::no_task())
        }
    }

    /// Moves a deadline out.
    ///
    /// # Errors
    /// Never past its limit nor past the deadline of a task above it; P6.
    pub async fn extend(
        &self,
        who: &Principal,
        id: TaskId,
        ttl: Duration,
        request: Option<&RequestMark>,
    ) -> Result<Task, Refused> {
        let mut asked = self.asked(who, request);
        for _ in 0..ATTEMPTS {
            if let Some(before) = self.answered(&mut asked).await? {
                return Ok(before);
            }
            let now = self.clock.now();
            let task = self.visible_task(who, id).await?;
            let above = self.ancestors(&task).await?;
            let longer = lifecycle::extend(&task, &above, now + ttl, now)?;
            let resource = task.spiffe_id.to_string();
            let mut commit = Commit::default();
            commit.expect.push(Expect::Task(id, task.version));
            // An ancestor that ends or is suspended meanwhile must not be outlived.
            commit
                .expect
                .extend(above.iter().map(|task| Expect::LiveTask(task.id, now)));
            commit
                .changes
                .push(Change::PutTask(Box::new(longer.clone())));
            let audit = self.audit(who, "task.extend", resource, Some(&task), now);
            commit.changes.push(Change::Audit(audit));
            asked.write(&mut commit, &task);
            match self.store.commit(commit).await {
                Ok(_) => {
                    asked.written(&task);
                    self.publish(longer.clone());
                    return Ok(longer);
                }
                Err(CommitError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refused::busy())
    }

    /// Suspends a task and everything below it (P5).
    ///
    /// # Errors
    /// When it has ended; P6.
    pub async fn suspend(
        &self,
        who: &Principal,
        id: TaskId,
        reason: &str,
        request: Option<&RequestMark>,
    ) -> Result<Task, Refused> {
        let reason = reason.to_owned();
        let mut asked = self.asked(who, request);
        let rule = |tree: Tree, above: &[Task], now| {
            let by = actor(who, &tree.top, above)?;
            Ok(lifecycle::suspend(tree, by, reason.clone(), now)?)
        };
        let changed = self.change_tree(who, id, "task.suspend", &mut asked, rule);
        changed.await.map(|(task, _)| task)
    }

    /// Lifts a suspension (P5).
    ///
    /// # Errors
    /// When a higher rank placed it, or there is none; P6.
    pub async fn resume(
        &self,
        who: &Principal,
        id: TaskId,
        request: Option<&RequestMark>,
    ) -> Result<Task, Refused> {
        let mut asked = self.asked(who, request);
        let rule = |tree: Tree, above: &[Task], now| {
            let by = actor(who, &tree.top, above)?;
            let suspended = above.iter().any(|task| task.state.name() == "suspended");
            Ok(lifecycle::resume(tree, by, suspended, now)?)
        };
        let changed = self.change_tree(who, id, "task.resume", &mut asked, rule);
        changed.await.map(|(task, _)| task)
    }

    /// Ends a task and everything below it: one write (contract line 3). Returns the task and the
    /// position of the end in the revocation log. A task that has ended already stays as it is,
    /// and is returned with the log's newest position.
    ///
    /// # Errors
    /// `NO_SUCH_TASK`.
    pub async fn end(
        &self,
        who: &Principal,
        id: TaskId,
        cause: Cause,
        reason: &str,
    ) -> Result<(Task, u64), Refused> {
        self.end_asked(who, id, cause, reason, None).await
    }

    /// [`Self::end`] by a request that may have an id.
    ///
    /// # Errors
    /// `NO_SUCH_TASK`; P6.
    pub async fn end_asked(
        &self,
        who: &Principal,
        id: TaskId,
        cause: Cause,
        reason: &str,
        request: Option<&RequestMark>,
    ) -> Result<(Task, u64), Refused> {
        let mut asked = self.asked(who, request);
        if !self.visible_task(who, id).await?.is_ended() {
            let rule = |tree: Tree, above: &[Task], now| {
                let by = actor(who, &tree.top, above)?;
                let parent = tree
                    .top
                    .parent
                    .and_then(|id| above.iter().find(|t| t.id == id));
                tracing::info!(task = %id, cause = cause.name(), %who, reason, "task ends");
                Ok(lifecycle::end(tree, parent, cause, by, now)?)
            };
            let ended = self
                .change_tree(who, id, "task.end", &mut asked, rule)
                .await;
            match ended {
                Err(refused) if refused.reason == "ALREADY_ENDED" => {}
                other => return other,
            }
        }
        let task = self.visible_task(who, id).await?;
        // A begin that lost the race against this end may have noted the task after it.
        self.live.note(&task);
        let task = self.remember(&mut asked, task).await?;
        Ok((task, self.newest()))
    }

    /// The revocation log's newest sequence number.
    pub fn newest(&self) -> u64 {
        self.store.position().borrow().sequence
    }

    /// Lifts a bar: the process may have implicit tasks again (P3).
    ///
    /// # Errors
    /// `NO_SUCH_BAR`.
    pub async fn lift_bar(
        &self,
        by: &Principal,
        entry: taskmint_model::EntryId,
        node: taskmint_id::SpiffeId,
        process: taskmint_model::Process,
    ) -> Result<(), Refused> {
        let bars = self.store.bars(&node).await?;
        if !bars
            .iter()
            .any(|bar| bar.entry == entry && bar.process == process)
        {
            return Err(Refused::new(
                RefusalKind::NotFound,
                "NO_SUCH_BAR",
                "no such bar",
            ));
        }
        let audit = self.audit(by, "bar.lift", process.to_string(), None, self.clock.now());
        let lift = Change::LiftBar {
            entry,
            node: node.clone(),
            process,
        };
        let changes = vec![lift, Change::Audit(audit)];
        self.store
            .commit(Commit {
                expect: Vec::new(),
                changes,
            })
            .await?;
        self.bars_changed(&node);
        Ok(())
    }

    /// Ends every live task that matches; returns how many.
    pub(crate) async fn end_all(
        &self,
        mut query: TaskQuery,
        cause: Cause,
        by: &Principal,
    ) -> Result<u64, Refused> {
        let mut ended = 0;
        loop {
            let page = self.store.tasks(&query).await?;
            // One that a cascade ends meanwhile counts too.
            ended += page.items.len() as u64;
            self.end_each(by, page.items, cause).await?;
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(ended),
            }
        }
    }

    /// Ends tasks whose deadline has passed; returns the next deadline.
    pub async fn expire(&self) -> Option<Timestamp> {
        if let Err(error) = self.end_due().await {
            tracing::error!(%error, "a task past its deadline could not be ended");
        }
        self.live.next_deadline()
    }

    /// Ends some tasks whose deadline has passed; returns how many were due.
    pub(crate) async fn end_due(&self) -> Result<usize, Refused> {
        let now = self.clock.now();
        let due = self.live.due(&*self.store, now, DUE).await?;
        let count = due.len();
        let mut over = Vec::with_capacity(count);
        for id in due {
            match self.store.task(id).await? {
                // It was changed by a request that was given up before it could say so.
                Some(task) if task.is_ended() || task.times.deadline > now => self.live.note(&task),
                Some(task) => over.push(task),
                // Its bucket was swept.
                None => self.live.forget(id),
            }
        }
        self.end_each(&Principal::Issuer, over, Cause::EXPIRED)
            .await?;
        Ok(count)
    }

    /// Reads a tree, applies a rule, commits what it says; again if something changed meanwhile.
    async fn change_tree<'a>(
        &'a self,
        who: &Principal,
        id: TaskId,
        action: &'static str,
        asked: &mut Asked<'a>,
        rule: impl Fn(Tree, &[Task], Timestamp) -> Result<Changes, Refused>,
    ) -> Result<(Task, u64), Refused> {
        for _ in 0..ATTEMPTS {
            if let Some(before) = self.answered(asked).await? {
                return Ok((before, self.newest()));
            }
            let now = self.clock.now();
            let top = self.visible_task(who, id).await?;
            let above = self.ancestors(&top).await?;
            let tree = Tree {
                below: self.descendants(&top).await?,
                top: top.clone(),
            };
            let mut changes = rule(tree, &above, now)?;
            let _ending = self.trace_ends(&mut changes, now).await?;
            let mut commit = self.commit_of(who, action, &top, &changes, now);
            asked.write(&mut commit, &top);
            match self.store.commit(commit).await {
                Ok(committed) => {
                    asked.written(&top);
                    changes.committed_at(committed.sequence);
                    for (task, _) in &changes.tasks {
                        self.publish(task.clone());
                    }
                    if changes.lift
                        && let Some(node) = &top.holder.node
                    {
                        // An event of a live task says nothing about bars.
                        self.bars_changed(node);
                    }
                    let task = changes.tasks.into_iter().map(|(task, _)| task);
                    let task = task.into_iter().find(|task| task.id == id).unwrap_or(top);
                    return Ok((task, committed.sequence));
                }
                Err(CommitError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refused::busy())
    }

    fn commit_of(
        &self,
        who: &Principal,
        action: &'static str,
        top: &Task,
        changes: &Changes,
        now: Timestamp,
    ) -> Commit {
        let mut commit = Commit::default();
        for (task, version) in &changes.tasks {
            commit.expect.push(Expect::Task(task.id, *version));
            commit.changes.push(Change::PutTask(Box::new(task.clone())));
        }
        for status in &changes.statuses {
            commit.changes.push(Change::Status(StatusChange {
                place: status.place,
                task: status.task,
                status: status.status,
                cause: status.cause,
                at: now,
            }));
        }
        if changes.bar {
            let implicit = changes.tasks.iter().map(|(task, _)| task);
            commit.changes.extend(
                implicit
                    .filter_map(|task| bar(task, now))
                    .map(Change::PutBar),
            );
        }
        if changes.lift {
            let resumed = changes.tasks.iter().filter_map(|(task, _)| bar(task, now));
            commit.changes.extend(resumed.map(|bar| Change::LiftBar {
                entry: bar.entry,
                node: bar.node,
                process: bar.process,
            }));
        }
        let resource = top.spiffe_id.to_string();
        commit.changes.push(Change::Audit(self.audit(
            who,
            action,
            resource,
            Some(top),
            now,
        )));
        commit
    }

    /// Tasks above, nearest first.
    pub(crate) async fn ancestors(&self, task: &Task) -> Result<Vec<Task>, Refused> {
        let mut above = Vec::new();
        let mut next = task.parent;
        while let Some(id) = next {
            let task = self.store.task(id).await?.ok_or_else(|| {
                Refused::new(
                    RefusalKind::Internal,
                    "STORE_DAMAGED",
                    "a parent is missing",
                )
            })?;
            next = task.parent;
            above.push(task);
        }
        Ok(above)
    }

    /// Every task below that has not ended.
    async fn descendants(&self, top: &Task) -> Result<Vec<Task>, Refused> {
        let mut below: Vec<Task> = Vec::new();
        let mut open = vec![(top.id, top.children)];
        while let Some((id, children)) = open.pop() {
            if children == 0 {
                continue;
            }
            for child in self.store.children(id).await? {
                if child.is_ended() {
                    continue;
                }
                open.push((child.id, child.children));
                below.push(child);
            }
            if below.len() > MAX_TREE {
                return Err(Refused::new(
                    RefusalKind::Exhausted,
                    "TREE_TOO_LARGE",
                    "too many",
                ));
            }
        }
        Ok(below)
    }
}

/// In which role a principal acts on a task. An agent says through which task its workload acts;
/// that it lies above is checked here.
fn actor(who: &Principal, task: &Task, above: &[Task]) -> Result<Actor, Refused> {
    match who {
        Principal::Admin(name) => Ok(Actor::Admin(name.clone())),
        Principal::Watcher(_) => Err(Refused::no_task()),
        Principal::Issuer => Ok(Actor::Issuer),
        Principal::Node(node) => Ok(Actor::Node(node.clone())),
        Principal::Workload(caller) => match caller.acting {
            Some(acting) if acting == task.id => Ok(Actor::Holder),
            Some(acting) if above.iter().any(|task| task.id == acting) => {
                Ok(Actor::Ancestor(acting))
            }
            _ => Err(Refused::no_task()),
        },
    }
}

/// P3: what was ended, or suspended, is not begun again by a retry.
fn bar(task: &Task, now: Timestamp) -> Option<Bar> {
    let implicit = task.kind == TaskKind::Implicit;
    let (entry, node) = (task.entry?, task.holder.node.clone()?);
    let process = task.holder.process?;
    implicit.then_some(Bar {
        entry,
        node,
        process,
        task: task.id,
        at: now,
    })
}
