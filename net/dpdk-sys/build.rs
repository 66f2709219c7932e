//! Finds libdpdk, generates the bindings and compiles the shim. Without the feature `link`
//! it does nothing.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "link")]
    if let Err(message) = link::run() {
        for line in message.lines() {
            println!("cargo:warning={line}");
        }
        eprintln!("error: {message}");
        std::process::exit(1);
    }
}

#[cfg(feature = "link")]
mod link {
    use std::path::PathBuf;
    use std::process::Command;

    const MIN_VERSION: &str = "22.11";

    /// What the bindings name directly. libdpdk.pc lists some sixty libraries; each that is
    /// linked costs start-up time, and drivers are loaded by the EAL itself.
    const LIBRARIES: &[&str] = &[
        "rte_ethdev",
        "rte_mbuf",
        "rte_mempool",
        "rte_ring",
        "rte_net",
        "rte_eal",
        // Not in libdpdk.pc: the driver library with `rte_eth_from_rings`.
        "rte_net_ring",
    ];

    const FUNCTIONS: &[&str] = &[
        "throng_.*",
        "rte_eal_(init|hotplug_add)",
        "rte_dev_remove",
        "rte_eth_dev_(get_port_by_name|info_get|configure|adjust_nb_rx_tx_desc)",
        "rte_eth_dev_(start|stop|close|default_mac_addr_set)",
        "rte_eth_dev_(rss_hash_conf_get|rss_reta_query|rss_reta_update|socket_id)",
        "rte_eth_dev_rx_intr_(enable|disable|ctl_q_get_fd)",
        "rte_eth_(macaddr_get|link_get_nowait|stats_get|from_rings)",
        "rte_eth_xstats_(get|get_names)",
        "rte_eth_allmulticast_enable",
        "rte_eth_(rx|tx)_queue_setup",
        "rte_pktmbuf_pool_create",
        "rte_mempool_avail_count",
        "rte_ring_(create|free)",
        "rte_thread_(register|unregister)",
    ];

    /// Seen through pointers only, or full of unions and packed fields that bindgen has no
    /// use for here.
    const OPAQUE: &[&str] =
        &["rte_mempool", "rte_ring", "rte_device", "rte_memzone", "rte_eth_switch_info"];

    pub(super) fn run() -> Result<(), String> {
        for file in ["shim.c", "guard.c", "log.c", "shim.h"] {
            println!("cargo:rerun-if-changed={file}");
        }
        let dpdk = pkg_config::Config::new()
            .atleast_version(MIN_VERSION)
            .cargo_metadata(false)
            .probe("libdpdk")
            .map_err(|error| missing(&error))?;
        let flags = cflags()?;
        bindings(&flags)?;
        let mut shim = cc::Build::new();
        shim.files(["shim.c", "guard.c", "log.c"]).opt_level(3).warnings(true);
        for flag in &flags {
            shim.flag(flag);
        }
        shim.try_compile("throng_dpdk_shim").map_err(|error| error.to_string())?;
        for path in &dpdk.link_paths {
            println!("cargo:rustc-link-search=native={}", path.display());
        }
        for library in LIBRARIES {
            println!("cargo:rustc-link-lib={library}");
        }
        Ok(())
    }

    fn missing(error: &pkg_config::Error) -> String {
        let found = match error {
            pkg_config::Error::ProbeFailure { .. } | pkg_config::Error::Failure { .. } => {
                "it was not found, or it is older".to_owned()
            }
            pkg_config::Error::Command { .. } => {
                "pkg-config itself could not be run (Debian and Fedora package: pkg-config, \
                 pkgconf-pkg-config)"
                    .to_owned()
            }
            other => other.to_string(),
        };
        format!(
            "The feature `dpdk` needs libdpdk >= {MIN_VERSION} with its headers; {found}.\n\
             Debian, Ubuntu: apt-get install libdpdk-dev libclang-dev pkg-config\n\
             Fedora:         dnf install dpdk-devel clang-devel pkgconf-pkg-config\n\
             or set PKG_CONFIG_PATH to the directory of your own libdpdk.pc.\n\
             Without the feature `dpdk` nothing of this is needed."
        )
    }

    /// The compiler flags of libdpdk, all of them: the pkg-config crate hands on only `-I`
    /// and `-D`, but `-include rte_config.h` and `-march` matter as much.
    fn cflags() -> Result<Vec<String>, String> {
        let program = std::env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
        let output = Command::new(&program)
            .args(["--cflags", "libdpdk"])
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
    }

    fn bindings(flags: &[String]) -> Result<(), String> {
        let mut builder = bindgen::Builder::default()
            .header("shim.h")
            .clang_args(flags)
            .use_core()
            .layout_tests(false)
            .generate_comments(false)
            .derive_default(false)
            .default_enum_style(bindgen::EnumVariation::Consts)
            .prepend_enum_name(false)
            .rust_edition(bindgen::RustEdition::Edition2024)
            .allowlist_type("rte_eth_(conf|dev_info|rxconf|txconf|rss_conf|link|stats)")
            .allowlist_type("rte_eth_rss_reta_entry64|rte_ether_addr|throng_.*")
            .allowlist_var("THRONG_.*")
            .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
        for function in FUNCTIONS {
            builder = builder.allowlist_function(function);
        }
        for name in OPAQUE {
            builder = builder.opaque_type(name);
        }
        // bindgen panics when there is no libclang; a panic in a build script is printed
        // with a backtrace that hides the reason.
        let generated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            builder.generate().map_err(|error| error.to_string())
        }))
        .map_err(|_| {
            "bindgen needs libclang.\nDebian, Ubuntu: apt-get install libclang-dev\n\
             Fedora:         dnf install clang-devel"
                .to_owned()
        })??;
        let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
        generated.write_to_file(out.join("bindings.rs")).map_err(|error| error.to_string())
    }
}
