//! The bundles of the moment.

use std::sync::Arc;

use arc_swap::ArcSwap;
use taskmint_id::{Bundle, BundleSet};

/// The bundles that count now. Clones share them; reading takes no lock.
#[derive(Clone, Debug, Default)]
pub struct Trust(Arc<ArcSwap<BundleSet>>);

impl Trust {
    /// These bundles, until others are set.
    pub fn new(bundles: BundleSet) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(bundles)))
    }

    /// Puts these in place of all others.
    pub fn set(&self, bundles: BundleSet) {
        self.0.store(Arc::new(bundles));
    }

    /// Puts one in place of its trust domain's former one.
    pub fn insert(&self, bundle: Bundle) {
        self.0.rcu(|bundles| {
            let mut bundles = BundleSet::clone(bundles);
            bundles.insert(bundle.clone());
            bundles
        });
    }

    /// The bundles now.
    pub fn get(&self) -> Arc<BundleSet> {
        self.0.load_full()
    }
}
