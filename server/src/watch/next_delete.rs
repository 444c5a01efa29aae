//! Waiting until keys are deleted, without their history: whoever waits looks at the store again afterwards.

use super::hub::{Hub, Kinds, Mailbox};
use super::index::WatchedRange;
use std::sync::Arc;
use store::Reader;

/// Watchers of deletions, from the moment they were made until they are dropped.
pub(crate) struct NextDelete {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    slots: Vec<u32>,
}

impl NextDelete {
    /// Watches keys. What the store holds after this call, or tells of later, is all there is: a deletion is either seen
    /// by a look at the store that follows, or ends [`Self::happened`].
    pub(crate) fn of<'a>(hub: &Arc<Hub>, reader: &Reader, keys: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let kinds = Kinds { puts: false, deletes: true };
        let mailbox = Arc::default();
        let ranges = keys.into_iter().filter_map(|key| WatchedRange::new(key, &[]));
        let slots = ranges.zip(0..).map(|(range, id)| {
            let (slot, _, _) = hub.register(&mailbox, &range, id, kinds, None, reader.revision());
            slot
        });
        let slots = slots.collect();
        Self { hub: Arc::clone(hub), mailbox, slots }
    }

    /// Waits until one of the keys may have been deleted. Cancellation safe.
    pub(crate) async fn happened(&self) {
        self.mailbox.filled().await;
    }
}

impl Drop for NextDelete {
    fn drop(&mut self) {
        for slot in &self.slots {
            self.hub.remove(*slot);
        }
    }
}
