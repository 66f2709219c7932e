//! One value of the shard itself, for the layer above: its network, say.

use std::any::Any;
use std::rc::Rc;

use crate::shard;

/// Sets the current shard's value, in place of the one before. It is dropped
/// at the shard's end, after its tasks and its driver.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn set<T: 'static>(value: Rc<T>) {
    // The old value is dropped outside the borrow: its drop may look here again.
    let old = shard::with(|shard| shard.local.replace(Some(value)));
    drop(old);
}

/// The current shard's value, if it is of type `T`; `None` also where no shard runs.
pub fn get<T: 'static>() -> Option<Rc<T>> {
    let value: Rc<dyn Any> = shard::try_with(|shard| shard.local.borrow().clone())??;
    value.downcast().ok()
}
