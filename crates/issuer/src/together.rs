//! What is done to many tasks at once: those of a node, of an entry, those that are due.

use std::collections::BTreeMap;
use std::future::Future;

use futures::StreamExt as _;
use taskmint_model::TaskId;

use crate::refused::Refused;
use crate::{Cause, Issuer, Principal};

/// Trees that are worked on at the same time: what they write shares syncs.
const AT_ONCE: usize = 256;

impl Issuer {
    /// Does something to each of these tasks, and to the others where one fails. Those of one tree
    /// have their turns one after the other: an end writes its parent, and two at once would stand in
    /// each other's way. One that is gone meanwhile is passed over.
    ///
    /// # Errors
    /// The first that there was, once all had their turn.
    pub(crate) async fn each_of<F>(
        &self,
        tasks: Vec<TaskId>,
        act: impl Fn(TaskId) -> F,
    ) -> Result<(), Refused>
    where
        F: Future<Output = Result<(), Refused>>,
    {
        let mut trees: BTreeMap<TaskId, Vec<TaskId>> = BTreeMap::new();
        for id in tasks {
            if let Some(task) = self.store.task(id).await? {
                trees.entry(task.root).or_default().push(id);
            }
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

    /// Ends each of these tasks, and what is below them.
    ///
    /// # Errors
    /// As [`Self::each_of`].
    pub(crate) async fn end_each(
        &self,
        by: &Principal,
        tasks: Vec<TaskId>,
        cause: Cause,
        reason: &str,
    ) -> Result<(), Refused> {
        let end = async |id| self.end(by, id, cause, reason).await.map(drop);
        self.each_of(tasks, end).await
    }
}
