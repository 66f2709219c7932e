//! throng-lb among real servers, at full size: 50,000 requests with reloads, bodies of a gigabyte,
//! 10,000 idle clients; on the host's sockets and on DPDK's net_tap.
//!
//! The same tests run in CI, small and on the host's sockets (`examples/load-balancer/tests/parts`).

use std::path::Path;
use std::time::Duration;

use crate::cargo::cargo;
use crate::host;
use crate::report::Outcome;

/// On two cores that are busy with others it takes long.
const LIMIT: Duration = Duration::from_secs(1_800);

/// Builds, optimised, and runs them, `only` those whose name contains one of these.
pub(super) fn run(logs: &Path, only: &[String]) -> Outcome {
    let test = || {
        let build = ["test", "--release", "--locked", "--package=throng-lb", "--test=parts"];
        let build = cargo(build).args(host::dpdk().is_ok().then_some("--features=dpdk"));
        build.limit(LIMIT)
    };
    let built = test().args(["--no-run", "--quiet"]).log(logs.join("build.log")).run();
    if !built.as_ref().is_ok_and(|done| done.ok()) {
        return Outcome::of_check("build", built);
    }
    let mut outcome = Outcome::default();
    for device in ["kernel", "net_tap"] {
        if device == "net_tap"
            && let Err(why) = host::dpdk()
        {
            outcome.add(Outcome::skip("balancer: net_tap", why));
            continue;
        }
        println!("    on {device}:");
        let run = test()
            .args(["--offline", "--", "--test-threads=1", "--show-output"])
            .args(only)
            .env("THRONG_LB_BIG", "1")
            .env("THRONG_LB_DEVICE", device)
            .wrapped(host::own_network())
            .log(logs.join(format!("{device}.log")))
            .echo(true);
        outcome.add(Outcome::of_tests(device, run.run()));
    }
    outcome
}
