//! Spreading flows over queues: the port's hash key and redirection table.

use dpdk_sys as sys;

use super::port::Driver;
use crate::device::Rss;

/// Key length where the driver does not say, in bytes.
const KEY_LEN: usize = 40;
/// Longest redirection table asked for (DPDK: `RTE_ETH_RSS_RETA_SIZE_512`).
const MAX_RETA: usize = 512;

/// What has to be hashed over all four fields for the claim of [`Rss::Toeplitz`].
const TCP: u64 = sys::THRONG_RSS_IPV4_TCP | sys::THRONG_RSS_IPV6_TCP;
/// The same for UDP, without which it is steered by software.
const UDP: u64 = sys::THRONG_RSS_IPV4_UDP | sys::THRONG_RSS_IPV6_UDP;
const WANTED: u64 = TCP | UDP | sys::THRONG_RSS_IPV4 | sys::THRONG_RSS_IPV6;

/// Puts the request for RSS into `conf`, if the port has any; `key` is repeated to the length
/// the port wants. The result owns the key that `conf` then points to.
pub(super) fn request(
    driver: Driver,
    info: &sys::rte_eth_dev_info,
    queues: u16,
    key: &[u8],
    conf: &mut sys::rte_eth_conf,
) -> Option<Vec<u8>> {
    // net_tap announces types it does not hash by. The others mean what they say, and a port
    // that announces none refuses to be configured with RSS.
    let types = info.flow_type_rss_offloads & WANTED;
    if driver == Driver::Tap || types == 0 || queues < 2 || key.is_empty() {
        conf.rxmode.offloads &= !sys::THRONG_RX_OFFLOAD_RSS_HASH;
        return None;
    }
    let len = match info.hash_key_size {
        0 => KEY_LEN,
        some => usize::from(some),
    };
    let mut key: Vec<u8> = key.iter().copied().cycle().take(len).collect();
    conf.rxmode.mq_mode = sys::THRONG_MQ_RX_RSS;
    conf.rx_adv_conf.rss_conf.rss_hf = types;
    conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
    // At most 255: it came out of a u8, or is KEY_LEN.
    conf.rx_adv_conf.rss_conf.rss_key_len = len as u8;
    Some(key)
}

/// After the start: spreads the table over the queues, and says what the port now does.
pub(super) fn settle(
    port: u16,
    info: &sys::rte_eth_dev_info,
    queues: u16,
    key: Option<Vec<u8>>,
) -> Rss {
    let Some(key) = key else { return Rss::None };
    let size = usize::from(info.reta_size);
    if size == 0 || size > MAX_RETA || !size.is_power_of_two() {
        return Rss::None;
    }
    let wanted: Vec<u16> = (0..queues).cycle().take(size).collect();
    let mut groups = groups(&wanted);
    // SAFETY: `groups` holds `size` entries in groups of 64, all masked in.
    let updated =
        unsafe { sys::rte_eth_dev_rss_reta_update(port, groups.as_mut_ptr(), info.reta_size) };
    // SAFETY: as above, as out-parameter.
    let queried =
        unsafe { sys::rte_eth_dev_rss_reta_query(port, groups.as_mut_ptr(), info.reta_size) };
    let reta = if queried == 0 {
        groups.iter().flat_map(|group| group.reta).take(size).collect()
    } else if updated == 0 {
        wanted
    } else {
        return Rss::None;
    };
    let mut in_use = key.clone();
    // SAFETY: plain C data.
    let mut conf: sys::rte_eth_rss_conf = unsafe { std::mem::zeroed() };
    conf.rss_key = in_use.as_mut_ptr();
    conf.rss_key_len = in_use.len() as u8;
    // SAFETY: the key buffer is as long as the driver's keys are.
    let code = unsafe { sys::rte_eth_dev_rss_hash_conf_get(port, &mut conf) };
    let hashed = if code == 0 { conf.rss_hf } else { info.flow_type_rss_offloads };
    if hashed & TCP != TCP || reta.iter().any(|&queue| queue >= queues) {
        return Rss::None;
    }
    Rss::Toeplitz { key: in_use, reta, udp: hashed & UDP == UDP }
}

/// The table as DPDK takes it.
fn groups(reta: &[u16]) -> Vec<sys::rte_eth_rss_reta_entry64> {
    reta.chunks(sys::THRONG_RETA_GROUP as usize)
        .map(|chunk| {
            let mut group = sys::rte_eth_rss_reta_entry64 { mask: u64::MAX, reta: [0; 64] };
            if let Some(rest) = 64usize.checked_sub(chunk.len()) {
                group.mask = u64::MAX >> rest;
            }
            group.reta[..chunk.len()].copy_from_slice(chunk);
            group
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_cut_into_groups_of_64() {
        let groups = groups(&(0..128).map(|slot| slot % 3).collect::<Vec<u16>>());
        assert_eq!(groups.len(), 2);
        assert_eq!((groups[1].mask, groups[1].reta[0]), (u64::MAX, 64 % 3));
        assert_eq!(super::groups(&[1, 0])[0].mask, 0b11);
    }
}
