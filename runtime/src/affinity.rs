//! Which cores a thread may run on.

use std::io;

/// A set of cores.
#[derive(Clone, Copy)]
pub(crate) struct Cores(libc::cpu_set_t);

impl Cores {
    fn none() -> Cores {
        // SAFETY: all-zero is the empty set.
        Cores(unsafe { std::mem::zeroed() })
    }

    /// One core, which must be below `CPU_SETSIZE`.
    pub(crate) fn one(core: usize) -> Cores {
        let mut cores = Cores::none();
        // SAFETY: the set is a plain array of bits, which the libc crate indexes checked.
        unsafe { libc::CPU_SET(core, &mut cores.0) };
        cores
    }

    /// Those the calling thread may run on.
    pub(crate) fn of_this_thread() -> io::Result<Cores> {
        let mut cores = Cores::none();
        // SAFETY: the set is valid and its size is right; 0 means the calling thread.
        let done = unsafe { libc::sched_getaffinity(0, size_of_val(&cores.0), &raw mut cores.0) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(cores) }
    }

    /// These less `others`, or these if nothing would be left.
    pub(crate) fn less(self, others: &[usize]) -> Cores {
        let mut rest = self;
        for &core in others {
            // SAFETY: as in `one`.
            unsafe { libc::CPU_CLR(core, &mut rest.0) };
        }
        // SAFETY: counts bits.
        if unsafe { libc::CPU_COUNT(&rest.0) } == 0 { self } else { rest }
    }

    /// Ties the calling thread, and those it will start, to these cores.
    pub(crate) fn pin(&self) -> io::Result<()> {
        // SAFETY: the set is valid and its size is right; 0 means the calling thread.
        match unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &raw const self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
