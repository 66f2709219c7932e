//! A port's extended statistics: what its driver counts, under the driver's names.

use std::ffi::CStr;
use std::ptr;

use dpdk_sys as sys;

/// All of them; empty where the driver has none or fails to tell.
pub(super) fn read(port_id: u16) -> Vec<(String, u64)> {
    // SAFETY: with no room the call only tells how much it wants; the port is valid.
    let count = unsafe { sys::rte_eth_xstats_get_names(port_id, ptr::null_mut(), 0) };
    let Ok(count) = usize::try_from(count) else { return Vec::new() };
    // SAFETY: plain C data.
    let mut names: Vec<sys::rte_eth_xstat_name> = vec![unsafe { std::mem::zeroed() }; count];
    let mut values = vec![sys::rte_eth_xstat { id: 0, value: 0 }; count];
    // SAFETY: there is room for `count` entries in both; the port is valid.
    let filled = unsafe {
        let names = sys::rte_eth_xstats_get_names(port_id, names.as_mut_ptr(), count as u32);
        let values = sys::rte_eth_xstats_get(port_id, values.as_mut_ptr(), count as u32);
        names.min(values)
    };
    // More than there is room for: the port has changed in between.
    let filled = usize::try_from(filled).unwrap_or(0);
    if filled > count {
        return Vec::new();
    }
    values[..filled]
        .iter()
        .filter_map(|stat| {
            let name = names.get(usize::try_from(stat.id).ok()?)?;
            // SAFETY: `c_char` and `u8` are the same byte; the array is initialized.
            let bytes = unsafe {
                std::slice::from_raw_parts(name.name.as_ptr().cast::<u8>(), name.name.len())
            };
            let name = CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()?;
            (!name.is_empty()).then(|| (name.to_owned(), stat.value))
        })
        .collect()
}
