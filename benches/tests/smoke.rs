//! The comparison's frame, end to end and in small: two processes of each subject, a round, a report.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_quick_echo_is_measured_and_reported() {
    if !cfg!(feature = "dpdk") {
        println!("skipped: this build is without DPDK");
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let cores = if cores > 1 { "0,1" } else { "0,0" };
    // Of the peers only the one that needs no build of its own.
    let output = Command::new(env!("CARGO_BIN_EXE_throng-bench"))
        .args(["echo", "--quick", "--json", "--connections", "10", "--link", "memif"])
        .args(["--peers", "throng-on-kernel", "--cores", cores])
        .output()
        .expect("the program of this package");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    let last = said.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last).expect("an object on the last line");
    assert_eq!(report["bench"], "echo");
    assert_eq!(report["params"]["connections"], 10);
    assert_eq!(report["best_peer"], "throng-on-kernel", "{complained}");
    for key in ["throng", "ratio"] {
        assert!(report[key].as_f64().is_some_and(|figure| figure > 0.0), "{key} in {last}");
    }
    assert!(report["noisy"].is_boolean() && report["spread"].is_number(), "{last}");
    for (name, details) in report["details"].as_object().expect("details") {
        assert_eq!(details["errors"], 0, "{name}: {complained}");
        assert!(details["p99_us"].is_null(), "{name} was not timed");
    }
}
