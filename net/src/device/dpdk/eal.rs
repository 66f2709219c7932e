//! DPDK's environment layer: started once per process, then devices come and go.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, CString};
use std::io;
use std::sync::{Mutex, MutexGuard};

use dpdk_sys as sys;

use super::{log, pool};
use crate::device::OpenOptions;

/// Memory for everything that is not packet buffers: rings, queues, driver state.
const OVERHEAD: usize = 64 << 20;
/// Least memory reserved when there are no huge pages. It is address space until used.
const MIN_WITHOUT_HUGE: usize = 512 << 20;

enum State {
    Cold,
    Started,
    Failed(String),
}

static STATE: Mutex<State> = Mutex::new(State::Cold);

/// Held while ports are attached, configured or closed: DPDK's control functions may not be
/// called by two threads at once.
static CONTROL: Mutex<()> = Mutex::new(());

/// Serialises control calls.
pub(super) fn control() -> MutexGuard<'static, ()> {
    // The guarded value is (): a panic elsewhere cannot have left it half-written.
    let control = CONTROL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    log::forget();
    control
}

/// Starts DPDK if this process has not done so. `ports` is what is to be opened first: the
/// PCI devices among them are the only ones DPDK will look at.
pub(super) fn start(ports: &[String], shards: usize, options: &OpenOptions) -> io::Result<()> {
    let mut state = STATE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match &*state {
        State::Started => return Ok(()),
        State::Failed(reason) => return Err(io::Error::other(reason.clone())),
        State::Cold => {}
    }
    let memory = OVERHEAD + 2 * shards * pool::bytes(options);
    let extra = std::env::var("THRONG_EAL_ARGS").unwrap_or_default();
    let huge = if extra.contains("--no-huge") { 0 } else { free_huge_pages() };
    let args = arguments(ports, memory, huge, &extra);
    tracing::debug!(?args, "starting DPDK");
    log::take_over();
    // On a thread of its own: rte_eal_init makes its caller DPDK's main lcore and changes
    // its CPU affinity, which is not ours to change.
    let result = std::thread::Builder::new()
        .name("dpdk-main".to_owned())
        .spawn(move || init(&args))?
        .join()
        .map_err(|_| io::Error::other("the thread that starts DPDK panicked"))?;
    match result {
        Ok(()) => {
            ignore_sigio();
            *state = State::Started;
            Ok(())
        }
        Err(error) => {
            *state = State::Failed(error.to_string());
            Err(error)
        }
    }
}

fn init(args: &[String]) -> io::Result<()> {
    let mut owned = Vec::with_capacity(args.len());
    for arg in args {
        owned.push(CString::new(arg.as_str()).map_err(io::Error::other)?.into_raw());
    }
    // SAFETY: argv is an array of `len` pointers to NUL-terminated strings that are writable
    // and, leaked on purpose, live for ever: the EAL reorders the array and keeps pointers.
    let code = unsafe { sys::rte_eal_init(owned.len() as i32, owned.leak().as_mut_ptr()) };
    if code < 0 {
        // SAFETY: reads a thread-local of this thread, the one that made the call.
        let errno = unsafe { sys::throng_errno() };
        return Err(super::dpdk_error(&format!("DPDK did not start ({})", args.join(" ")), errno));
    }
    Ok(())
}

/// The arguments for `rte_eal_init`. `huge`: bytes free in huge pages.
fn arguments(ports: &[String], memory: usize, huge: usize, extra: &str) -> Vec<String> {
    let mut args = vec![
        "throng".to_owned(),
        format!("--file-prefix=throng{}", std::process::id()),
        "--no-telemetry".to_owned(),
        "--log-level=notice".to_owned(),
        format!("--lcores=0@({})", cpus()),
    ];
    // Reserved at once, with huge pages too: growing later takes a lock that virtio_user holds
    // while it waits for an answer of its vhost peer, which may be in this process.
    // With a margin: who finds too few after all cannot start again without.
    let reserve = if huge >= memory + memory / 2 {
        // One file per segment list: memif's zero-copy and virtio_user share memory with a
        // peer by passing its descriptors, and may pass only a few.
        args.extend(["--in-memory", "--single-file-segments"].map(str::to_owned));
        memory
    } else {
        args.extend(["--no-huge", "--no-shconf"].map(str::to_owned));
        memory.max(MIN_WITHOUT_HUGE)
    };
    args.extend(["-m".to_owned(), (reserve >> 20).to_string()]);
    let pci: Vec<&String> = ports.iter().filter(|port| is_pci(port)).collect();
    if pci.is_empty() {
        args.push("--no-pci".to_owned());
    }
    for port in pci {
        args.extend(["-a".to_owned(), port.clone()]);
    }
    args.extend(extra.split_whitespace().map(str::to_owned));
    args
}

/// The CPUs this process may use, as the EAL's lists are written: `0-3,8`. The main lcore
/// and DPDK's helper threads float over all of them; shards are pinned by the runtime.
fn cpus() -> String {
    // SAFETY: cpu_set_t is a plain bit array, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size passed is that of the set written to.
    let code =
        unsafe { libc::sched_getaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &mut set) };
    let mut list = Vec::new();
    if code == 0 {
        // SAFETY: the index is below CPU_SETSIZE.
        let allowed = |cpu: usize| unsafe { libc::CPU_ISSET(cpu, &set) };
        list = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| allowed(cpu)).collect();
    }
    if list.is_empty() {
        return "0".to_owned();
    }
    list.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// Bytes in huge pages of all sizes that nobody has mapped or reserved.
fn free_huge_pages() -> usize {
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    sizes
        .flatten()
        .filter_map(|size| {
            let name = size.file_name().into_string().ok()?;
            let kilobytes: usize =
                name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = |file: &str| -> Option<usize> {
                std::fs::read_to_string(size.path().join(file)).ok()?.trim().parse().ok()
            };
            let free = count("free_hugepages")?.saturating_sub(count("resv_hugepages")?);
            Some(kilobytes * 1024 * free)
        })
        .sum()
}

/// The net_tap driver has the kernel send a realtime signal per frame. When the queue of
/// signals is full the kernel sends SIGIO instead, whose default is to end the process.
fn ignore_sigio() {
    // SAFETY: querying and setting the disposition of a signal, with a zeroed sigaction
    // (a valid value) as out-parameter.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGIO, std::ptr::null(), &mut old) == 0
            && old.sa_sigaction == libc::SIG_DFL
        {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
        }
    }
}

/// Prepares for bursts whose memory may vanish, once.
pub(super) fn guard_bursts() -> io::Result<()> {
    static INSTALLED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    // SAFETY: installs signal handlers that pass on what is not theirs; called once.
    if *INSTALLED.get_or_init(|| unsafe { sys::throng_guard_install() } == 0) {
        Ok(())
    } else {
        Err(io::Error::other("no signal handler for faults in shared memory"))
    }
}

/// Whether a device name is a PCI address: `0000:00:03.0` or `00:03.0`.
pub(super) fn is_pci(device: &str) -> bool {
    let address = device.split(',').next().unwrap_or_default();
    let Some((slot, function)) = address.rsplit_once('.') else { return false };
    let fields: Vec<&str> = slot.split(':').collect();
    matches!(fields.len(), 2 | 3)
        && fields.iter().all(|field| u32::from_str_radix(field, 16).is_ok())
        && function.parse::<u8>().is_ok()
}

/// Attaches a device. Returns the number of its port.
pub(super) fn attach(device: &str) -> io::Result<u16> {
    let (name, args) = device.split_once(',').unwrap_or((device, ""));
    let c_name = c_string(name)?;
    let c_args = c_string(args)?;
    let bus = if is_pci(device) { c"pci" } else { c"vdev" };
    if let Ok(port) = port_by_name(&c_name) {
        // PCI devices allowed at the start are there already; a virtual one is in use.
        if bus == c"pci" {
            return Ok(port);
        }
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("dpdk:{name}: this process has a device of that name already"),
        ));
    }
    // SAFETY: NUL-terminated strings that outlive the call; the control lock is held by the
    // caller, as for every function here.
    let code = unsafe { sys::rte_eal_hotplug_add(bus.as_ptr(), c_name.as_ptr(), c_args.as_ptr()) };
    if code < 0 {
        let hint = if bus == c"pci" {
            " (bound to vfio-pci or uio_pci_generic? named when the first port was opened?)"
        } else {
            ""
        };
        return Err(super::dpdk_error(&format!("dpdk:{device}{hint}"), code));
    }
    port_by_name(&c_name).map_err(|_| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("dpdk:{device}: the device was attached but has no Ethernet port"),
        )
    })
}

/// A port's number by its device's name.
fn port_by_name(name: &CStr) -> io::Result<u16> {
    let mut port = 0;
    // SAFETY: a NUL-terminated string and an out-parameter, both alive during the call.
    let code = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) };
    if code == 0 { Ok(port) } else { Err(super::dpdk_error("no such port", code)) }
}

/// `text` for C.
pub(super) fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| super::invalid(format!("dpdk:{text:?}: a NUL in the name")))
}

/// Frames a thread gathers before it gives them back in one call.
const FREE_BATCH: usize = 64;

/// What DPDK needs to know of a thread, and the buffers it has yet to give back.
struct ThreadState {
    registered: Cell<Registration>,
    count: Cell<usize>,
    batch: UnsafeCell<[*mut sys::throng_mbuf; FREE_BATCH]>,
}

#[derive(Clone, Copy, PartialEq)]
enum Registration {
    None,
    Done,
    Refused,
}

impl ThreadState {
    fn flush(&self) {
        let count = self.count.replace(0);
        if count != 0 {
            // SAFETY: the first `count` entries are frames owned by this batch and by
            // nobody else; the count is zero before the call, so they are freed once.
            unsafe { sys::throng_free_bulk(self.batch.get().cast(), count as u32) };
        }
    }
}

impl Drop for ThreadState {
    fn drop(&mut self) {
        self.flush();
        if self.registered.get() == Registration::Done {
            // SAFETY: this thread was registered and is about to end.
            unsafe { sys::rte_thread_unregister() };
        }
    }
}

thread_local! {
    static THREAD: ThreadState = const {
        ThreadState {
            registered: Cell::new(Registration::None),
            count: Cell::new(0),
            batch: UnsafeCell::new([std::ptr::null_mut(); FREE_BATCH]),
        }
    };
}

/// Makes the calling thread known to DPDK, once. Without it the pools' per-thread caches are
/// bypassed, at half the speed; so a refusal (more than 128 threads) costs speed only.
#[inline]
pub(super) fn register_thread() {
    THREAD.with(|thread| {
        if thread.registered.get() == Registration::None {
            register_now(thread);
        }
    });
}

#[cold]
fn register_now(thread: &ThreadState) {
    // SAFETY: may be called by any thread once DPDK is started, and a queue exists.
    if unsafe { sys::rte_thread_register() } == 0 {
        thread.registered.set(Registration::Done);
    } else {
        thread.registered.set(Registration::Refused);
        tracing::warn!("DPDK has no place for one more thread: packet buffers will be slower");
    }
}

/// Gives a frame back to its pool, on a shard's thread together with others.
///
/// # Safety
/// `frame` is owned by the caller, who does not use it again.
#[inline]
pub(super) unsafe fn free(frame: *mut sys::throng_mbuf) {
    let batched = THREAD.try_with(|thread| {
        // A thread that polls no queue would sit on its batch: it frees at once.
        if thread.registered.get() != Registration::Done {
            return false;
        }
        let count = thread.count.get();
        // SAFETY: count < FREE_BATCH (flush resets it below); only this thread has access,
        // and no reference into the array outlives this statement.
        unsafe { (*thread.batch.get())[count] = frame };
        thread.count.set(count + 1);
        if count + 1 == FREE_BATCH {
            thread.flush();
        }
        true
    });
    if !batched.unwrap_or(false) {
        let mut frame = frame;
        // SAFETY: an array of one frame, owned by the caller and given up.
        unsafe { sys::throng_free_bulk(&mut frame, 1) };
    }
}

/// Gives back what this thread has gathered.
pub(super) fn flush_frees() {
    // During the thread's end there is nothing left to flush.
    let _ = THREAD.try_with(ThreadState::flush);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_virtual_devices() {
        for pci in ["0000:00:03.0", "00:1f.6", "0000:af:00.1,arg=1"] {
            assert!(is_pci(pci), "{pci}");
        }
        for vdev in ["net_tap0", "net_tap0,iface=dtap0.1", "net_memif0,socket=/a:b.c", "", "."] {
            assert!(!is_pci(vdev), "{vdev}");
        }
    }

    #[test]
    fn huge_pages_are_used_when_there_are_enough() {
        let with = arguments(&["net_ring0".into()], 100 << 20, 150 << 20, "-n 2");
        assert!(
            with.contains(&"--in-memory".to_owned()) && with.ends_with(&["-n".into(), "2".into()])
        );
        let without = arguments(&["0000:00:03.0".into()], 1 << 30, 0, "");
        assert!(without.contains(&"--no-huge".to_owned()) && without.contains(&"1024".to_owned()));
        assert!(!without.contains(&"--no-pci".to_owned()));
    }
}
