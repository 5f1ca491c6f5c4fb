//! Entries, nodes, tokens, authorities, bars.

use std::sync::Arc;

use taskmint_model::{Entry, Node, NodeState};

use super::sample;
use crate::{AuthorityState, Change, Commit, Store};

async fn apply<S: Store>(store: &Arc<S>, changes: Vec<Change>) {
    store
        .commit(Commit {
            expect: Vec::new(),
            changes,
        })
        .await
        .unwrap();
}

/// Entries are stored whole, replaced, deleted, and listed by id.
pub async fn entries_come_back<S: Store>(store: &Arc<S>) {
    let put = |entry: &Entry| Change::PutEntry(Box::new(entry.clone()));
    let mut entries: Vec<_> = (1..=3).map(sample::entry).collect();
    apply(store, entries.iter().rev().map(put).collect()).await;
    assert_eq!(store.entries().await.unwrap(), entries);
    entries[1].revision = 2;
    entries[1].max_limit = None;
    entries[1].expires_at = None;
    apply(
        store,
        vec![put(&entries[1]), Change::DeleteEntry(entries[0].id)],
    )
    .await;
    assert_eq!(store.entries().await.unwrap(), entries[1..]);
    assert_eq!(
        store.entry(entries[1].id).await.unwrap().as_ref(),
        Some(&entries[1])
    );
    assert_eq!(store.entry(entries[0].id).await.unwrap(), None);
}

/// Nodes are stored whole in every state, and listed by id.
pub async fn nodes_come_back<S: Store>(store: &Arc<S>) {
    let states = [
        NodeState::Active,
        NodeState::Suspended,
        NodeState::Evicted,
        NodeState::Banned,
    ];
    let nodes: Vec<Node> = (1..=4)
        .map(|number| Node {
            state: states[number as usize - 1],
            ..sample::node(number)
        })
        .collect();
    apply(
        store,
        nodes
            .iter()
            .map(|node| Change::PutNode(Box::new(node.clone())))
            .collect(),
    )
    .await;
    assert_eq!(store.nodes().await.unwrap(), nodes);
    let renewed = Node {
        version: 2,
        pending: None,
        ..nodes[2].clone()
    };
    apply(store, vec![Change::PutNode(Box::new(renewed.clone()))]).await;
    assert_eq!(store.node(&renewed.id).await.unwrap(), Some(renewed));
    assert_eq!(store.node(&sample::node_id(99)).await.unwrap(), None);
}

/// Join tokens are stored whole, listed and deleted.
pub async fn tokens_come_back<S: Store>(store: &Arc<S>) {
    let tokens: Vec<_> = (1..=3).map(sample::token).collect();
    apply(
        store,
        tokens.iter().cloned().map(Change::PutToken).collect(),
    )
    .await;
    assert_eq!(store.tokens().await.unwrap(), tokens);
    apply(store, vec![Change::DeleteToken(sample::hash(2))]).await;
    assert_eq!(store.tokens().await.unwrap().len(), 2);
    assert_eq!(store.token(&sample::hash(2)).await.unwrap(), None);
    assert_eq!(
        store.token(&sample::hash(3)).await.unwrap().as_ref(),
        Some(&tokens[2])
    );
}

/// Authorities in every use and state, by age and not by id; forgotten ones are gone.
pub async fn authorities_come_back_oldest_first<S: Store>(store: &Arc<S>) {
    let mut records: Vec<_> = (0..12).map(sample::authority_record).collect();
    apply(
        store,
        records.iter().cloned().map(Change::PutAuthority).collect(),
    )
    .await;
    records.reverse();
    assert_eq!(store.authorities().await.unwrap(), records);
    records[0].state = AuthorityState::Retired;
    records[0].retired_at = Some(sample::NOW);
    records[0].activated_at = None;
    let gone = records.remove(5);
    apply(
        store,
        vec![
            Change::PutAuthority(records[0].clone()),
            Change::DeleteAuthority(gone.id),
        ],
    )
    .await;
    assert_eq!(store.authorities().await.unwrap(), records);
}

/// The bundle's sequence number starts at one and never falls.
pub async fn the_bundle_counts_up<S: Store>(store: &Arc<S>) {
    assert_eq!(store.bundle_sequence().await.unwrap(), 1);
    apply(store, vec![Change::BumpBundle]).await;
    apply(store, vec![Change::BumpBundle, Change::BumpBundle]).await;
    assert_eq!(store.bundle_sequence().await.unwrap(), 4);
}

/// Bars are listed by node and hold until lifted, each alone (P3).
pub async fn bars_hold_until_lifted<S: Store>(store: &Arc<S>) {
    // Node n1 must not see the bars of n11, whose id begins with its own.
    let bars = [sample::bar(1, 10), sample::bar(1, 300), sample::bar(11, 10)];
    apply(store, bars.iter().cloned().map(Change::PutBar).collect()).await;
    assert_eq!(store.bars(&sample::node_id(1)).await.unwrap(), bars[..2]);
    assert_eq!(store.bars(&sample::node_id(11)).await.unwrap(), bars[2..]);
    assert_eq!(store.bars(&sample::node_id(2)).await.unwrap(), []);
    let lifted = &bars[0];
    apply(
        store,
        vec![Change::LiftBar {
            entry: lifted.entry,
            node: lifted.node.clone(),
            process: lifted.process,
        }],
    )
    .await;
    assert_eq!(store.bars(&sample::node_id(1)).await.unwrap(), bars[1..2]);
    assert_eq!(store.bars(&sample::node_id(11)).await.unwrap(), bars[2..]);
}
