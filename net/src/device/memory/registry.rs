//! Links by name: `memory:<link>` of this process. The first to open a name is side A, the
//! second side B, a third is refused; when both have gone the name is free again.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::{MemoryQueue, Options, Side};

struct Link {
    a: Side,
    b: Option<Side>,
}

static LINKS: Mutex<Option<HashMap<String, Link>>> = Mutex::new(None);

/// Opens a side of the link `name` with `queues` queues, in the order of the queues.
///
/// # Errors
/// `AddrInUse` when both sides of the link are open already.
pub fn open(name: &str, queues: usize, options: Options) -> io::Result<Vec<MemoryQueue>> {
    let mut links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let links = links.get_or_insert_default();
    links.retain(|_, link| link.a.is_open() || link.b.as_ref().is_some_and(Side::is_open));
    match links.get_mut(name) {
        None => {
            let (a, queues) = Side::new(&format!("memory:{name}/a"), queues, options);
            links.insert(name.to_owned(), Link { a, b: None });
            Ok(queues)
        }
        Some(link) if link.b.is_none() => {
            let (b, queues) = Side::new(&format!("memory:{name}/b"), queues, options);
            Side::join(&link.a, &b);
            link.b = Some(b);
            Ok(queues)
        }
        Some(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("device `memory:{name}`: both sides of this link are open already"),
        )),
    }
}
