//! Administrators over mTLS, each held to its verbs and its path (P31).

use rustls_pki_types::CertificateDer;
use taskmint_verifier::tls::Identity;
use taskmint_wire::admin::admin_client::AdminClient;
use taskmint_wire::{admin, task};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::harness::World;
use crate::node::{Key, Node, connect, reason};

const LINES: &str = r#"
store.kind = "memory"
keys.kind = "memory"
[[admin.grants]]
principal = "spiffe://example.org/ops"
verbs = ["read", "register", "begin", "end"]
path_prefix = "/payments"
[[admin.grants]]
principal = "spiffe://example.org/auditor"
verbs = ["read"]
path_prefix = "/"
"#;

type Admin = AdminClient<Channel>;

/// An entry inside of the grant, one outside, and one that only begins alike.
struct Office {
    world: World,
    node: Node,
    inside: admin::Entry,
    outside: admin::Entry,
    alike: admin::Entry,
}

impl Office {
    async fn open() -> Self {
        let mut world = World::with(LINES).await;
        let inside = world.entry("payments/refunds", &["unix:uid:1"], true).await;
        let outside = world.entry("trading", &["unix:uid:2"], true).await;
        let alike = world.entry("payments-evil", &["unix:uid:3"], true).await;
        let node = Node::join(&world.token("n1").await).await;
        Self {
            world,
            node,
            inside,
            outside,
            alike,
        }
    }

    /// The admin API as a workload of this name sees it.
    async fn as_workload(&mut self, name: &str) -> Admin {
        let selectors = [format!("unix:user:{name}")];
        self.world.entry(name, &[&selectors[0]], true).await;
        let key = Key::new();
        let begin = self.node.begin(&[&selectors[0]], 7, key.spki());
        let began = self.node.client.begin_task(begin).await.unwrap();
        let identity = Identity::new();
        let chain = vec![CertificateDer::from(began.into_inner().certificate)];
        identity.set(chain, &key.pkcs8()).unwrap();
        self.showing(&identity).await
    }

    async fn showing(&self, identity: &Identity) -> Admin {
        let trust_domain = "example.org".parse().unwrap();
        let (trust, address) = (&self.node.trust, &self.node.address);
        AdminClient::new(connect(identity, trust, &trust_domain, address).await)
    }

    /// A task of an entry, begun by this host's own administrator.
    async fn task(&mut self, of: &admin::Entry) -> String {
        let begin = begin(&of.id);
        let begun = self.world.admin.begin_task(begin).await.unwrap();
        begun.into_inner().task.unwrap().id
    }
}

fn begin(entry: &str) -> admin::BeginTaskRequest {
    let task = task::BeginRequest {
        binding: task::Binding::None.into(),
        ..Default::default()
    };
    admin::BeginTaskRequest {
        entry_id: entry.to_owned(),
        task: Some(task),
        ..Default::default()
    }
}

fn ending(task: &str) -> task::EndRequest {
    task::EndRequest {
        task_id: task.to_owned(),
        ..Default::default()
    }
}

#[track_caller]
fn not_granted<T: std::fmt::Debug>(call: &str, answer: Result<Response<T>, Status>) {
    let status = answer.expect_err(call);
    let told = (status.code(), reason(&status));
    let expected = (Code::PermissionDenied, "NOT_GRANTED".to_owned());
    assert_eq!(told, expected, "{call}: {status}");
}

fn entry(path: &str) -> admin::Entry {
    admin::Entry {
        spiffe_id: format!("spiffe://example.org/{path}"),
        selectors: vec!["unix:uid:9".to_owned()],
        ..Default::default()
    }
}

async fn create(ops: &mut Admin, path: &str) -> Result<admin::Entry, String> {
    let entries = vec![entry(path)];
    let answer = ops.create_entries(admin::CreateEntriesRequest { entries });
    let result = answer.await.unwrap().into_inner().results.remove(0);
    result.entry.ok_or(result.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_over_a_path_does_not_reach_beyond_it() {
    let mut office = Office::open().await;
    let mut ops = office.as_workload("ops").await;

    // Entries: made, moved and deleted below the path only, whichever end of a move lies outside.
    let made = create(&mut ops, "payments/payouts").await.unwrap();
    for path in ["trading/x", "payments-evil/x", "payment", "ops"] {
        let refused = create(&mut ops, path).await.unwrap_err();
        assert_eq!(refused, "NOT_GRANTED", "{path}");
    }
    let moved = |of: &admin::Entry, path: &str| admin::UpdateEntryRequest {
        entry: Some(admin::Entry {
            spiffe_id: format!("spiffe://example.org/{path}"),
            ..of.clone()
        }),
    };
    let out = ops.update_entry(moved(&made, "trading/x")).await;
    not_granted("move out", out);
    let stolen = moved(&office.outside, "payments/x");
    not_granted("move in", ops.update_entry(stolen).await);
    let delete = |id: &str| admin::DeleteEntryRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    for of in [&office.outside, &office.alike] {
        not_granted("delete", ops.delete_entry(delete(&of.id)).await);
        // What may not be read is not there.
        let get = admin::GetEntryRequest { id: of.id.clone() };
        assert_eq!(ops.get_entry(get).await.unwrap_err().code(), Code::NotFound);
    }
    let nothing = "0198c0de-0000-7000-8000-000000000000";
    not_granted("delete", ops.delete_entry(delete(nothing)).await);
    let listed = ops.list_entries(admin::ListEntriesRequest::default()).await;
    let listed = listed.unwrap().into_inner().entries;
    let mut listed: Vec<_> = listed.into_iter().map(|entry| entry.id).collect();
    listed.sort();
    let mut own = vec![office.inside.id.clone(), made.id.clone()];
    own.sort();
    assert_eq!(listed, own);
    ops.delete_entry(delete(&made.id)).await.unwrap();

    // Tasks: the same, and nothing but what was granted.
    let (inside, outside) = (office.inside.clone(), office.outside.clone());
    let theirs = office.task(&outside).await;
    not_granted("begin", ops.begin_task(begin(&outside.id)).await);
    not_granted("begin", ops.begin_task(begin(nothing)).await);
    let below = admin::BeginTaskRequest {
        parent_id: theirs.clone(),
        ..begin(&inside.id)
    };
    not_granted("begin below another's task", ops.begin_task(below).await);
    let get = task::GetRequest {
        task_id: theirs.clone(),
    };
    not_granted("get", ops.get_task(get).await);
    not_granted("revoke", ops.revoke_task(ending(&theirs)).await);
    not_granted("complete", ops.complete_task(ending(&theirs)).await);
    let own = ops.begin_task(begin(&inside.id)).await.unwrap();
    let own = own.into_inner().task.unwrap().id;
    let listed = ops.list_tasks(admin::ListTasksRequest::default()).await;
    let listed: Vec<_> = listed.unwrap().into_inner().tasks;
    let listed: Vec<_> = listed.into_iter().map(|task| task.id).collect();
    assert_eq!(listed, std::slice::from_ref(&own));
    let extend = task::ExtendRequest {
        task_id: own.clone(),
        ttl_ms: 1000,
        ..Default::default()
    };
    not_granted("extend", ops.extend_task(extend).await);
    let suspend = task::SuspendRequest {
        task_id: own.clone(),
        ..Default::default()
    };
    not_granted("suspend", ops.suspend_task(suspend).await);
    ops.revoke_task(ending(&own)).await.unwrap();
    let state = office.world.task(&theirs).await.state();
    assert_eq!(state, task::State::Live);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_path_needs_a_grant_over_everything() {
    let mut office = Office::open().await;
    let mut ops = office.as_workload("ops").await;
    let node = office.node.id.clone();
    let of_node = || admin::NodeRequest {
        id: node.clone(),
        ..Default::default()
    };
    let token = admin::CreateTokenRequest::default();
    not_granted("create_token", ops.create_token(token).await);
    let tokens = admin::ListTokensRequest {};
    not_granted("list_tokens", ops.list_tokens(tokens).await);
    let nodes = admin::ListNodesRequest {};
    not_granted("list_nodes", ops.list_nodes(nodes).await);
    not_granted("evict_node", ops.evict_node(of_node()).await);
    not_granted("ban_node", ops.ban_node(of_node()).await);
    not_granted("unban_node", ops.unban_node(of_node()).await);
    let bars = admin::ListBarsRequest::default();
    not_granted("list_bars", ops.list_bars(bars).await);
    let keys = admin::ListAuthoritiesRequest {};
    not_granted("list_authorities", ops.list_authorities(keys).await);
    let ca = admin::PrepareAuthorityRequest {
        r#use: "ca".to_owned(),
    };
    not_granted("prepare_authority", ops.prepare_authority(ca).await);
    let audit = admin::ListAuditRequest::default();
    not_granted("list_audit", ops.list_audit(audit.clone()).await);
    let denials = admin::ListDenialsRequest::default();
    not_granted("list_denials", ops.list_denials(denials).await);
    let watchers = admin::ListWatchersRequest {};
    not_granted("list_watchers", ops.list_watchers(watchers).await);
    let backup = || admin::BackupRequest {
        folder: "/nowhere/backup".to_owned(),
    };
    not_granted("backup", ops.backup(backup()).await);

    // Everything may be read, and nothing changed, by who was granted just that.
    let mut auditor = office.as_workload("auditor").await;
    auditor.list_nodes(nodes).await.unwrap();
    auditor.list_audit(audit).await.unwrap();
    not_granted("evict_node", auditor.evict_node(of_node()).await);
    not_granted("backup", auditor.backup(backup()).await);
    let id = office.inside.id.clone();
    not_granted("begin", auditor.begin_task(begin(&id)).await);
    let state = &office.world.nodes().await[0].state;
    assert_eq!(state, "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_grant_does_not_administer() {
    let mut office = Office::open().await;
    let by_node = office.showing(&office.node.identity.clone()).await;
    for mut nobody in [office.as_workload("anybody").await, by_node] {
        let refused = nobody.get_status(admin::GetStatusRequest {}).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::PermissionDenied, "NOT_AN_ADMIN")
        );
    }
}
