//! What is done to many tasks at once: those of a node, of an entry, those that are due.

use std::collections::BTreeMap;
use std::future::Future;

use futures::StreamExt as _;
use taskmint_id::SpiffeId;
use taskmint_model::{Task, TaskId};

use crate::refused::Refused;
use crate::{Cause, Issuer, Principal};

/// Trees that are worked on at the same time: what they write shares syncs.
const AT_ONCE: usize = 256;

impl Issuer {
    /// Does something to each of these tasks, and to the others where one fails. Those of one tree
    /// have their turns one after the other: an end writes its parent, and two at once would stand in
    /// each other's way.
    ///
    /// # Errors
    /// The first that there was, once all had their turn.
    pub(crate) async fn each_of<F>(
        &self,
        tasks: impl IntoIterator<Item = Task>,
        act: impl Fn(TaskId) -> F,
    ) -> Result<(), Refused>
    where
        F: Future<Output = Result<(), Refused>>,
    {
        let mut trees: BTreeMap<TaskId, Vec<TaskId>> = BTreeMap::new();
        for task in tasks {
            trees.entry(task.root).or_default().push(task.id);
        }
        let act = &act;
        let tree = |ids: Vec<TaskId>| async move {
            let mut first = Ok(());
            for id in ids {
                let done = act(id).await;
                if let Err(error) = &done {
                    tracing::error!(task = %id, %error, "a task stays as it is");
                }
                first = first.and(done);
            }
            first
        };
        futures::stream::iter(trees.into_values())
            .map(tree)
            .buffer_unordered(AT_ONCE)
            .fold(Ok(()), async |first: Result<(), Refused>, done| {
                first.and(done)
            })
            .await
    }

    /// [`Self::each_of`] the live tasks that a node holds, its own not among them. One that is gone
    /// meanwhile is passed over.
    ///
    /// # Errors
    /// As [`Self::each_of`], and when they can't be read.
    pub(crate) async fn each_held<F>(
        &self,
        node: &SpiffeId,
        act: impl Fn(TaskId) -> F,
    ) -> Result<(), Refused>
    where
        F: Future<Output = Result<(), Refused>>,
    {
        let (mut after, mut first) = (None, Ok(()));
        while let Some(page) = self.held_after(node, after).await? {
            after = page.last().copied();
            let tasks = self.known(&page).await?;
            first = first.and(self.each_of(tasks, &act).await);
        }
        first
    }

    /// Those of these tasks that are there.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(crate) async fn known(&self, ids: &[TaskId]) -> Result<Vec<Task>, Refused> {
        let mut tasks = Vec::with_capacity(ids.len());
        for id in ids {
            tasks.extend(self.store.task(*id).await?);
        }
        Ok(tasks)
    }

    /// Ends each of these tasks, and what is below them.
    ///
    /// # Errors
    /// As [`Self::each_of`].
    pub(crate) async fn end_each(
        &self,
        by: &Principal,
        tasks: impl IntoIterator<Item = Task>,
        cause: Cause,
    ) -> Result<(), Refused> {
        let end = async |id| self.end(by, id, cause, "").await.map(drop);
        self.each_of(tasks, end).await
    }
}
