//! Counters with their names and descriptions: declared once, as the fields of a struct, and
//! from there in the code, in the exporters and in the documentation.

/// What a number means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A total since the start; it only grows.
    Counter,
    /// A total of what was refused, dropped or put off because a bound was reached; it should
    /// stay where it is.
    Limit,
    /// What there is at the moment.
    Gauge,
}

/// The name and meaning of one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name within its group, in snake case.
    pub name: &'static str,
    /// One or more sentences.
    pub help: &'static str,
    /// What sort of number it is.
    pub kind: Kind,
}

/// Something that has numbers to tell.
pub trait Measured {
    /// Every number with its description, in a fixed order.
    fn measure(&self) -> Vec<(&'static Metric, u64)>;
}

/// Declares a struct of numbers. Each field is written with its kind (`counter`, `limit` or
/// `gauge`, see [`Kind`](crate::metrics::Kind)) before its name, and its doc comment is its
/// description everywhere.
///
/// ```
/// throng_runtime::metrics! {
///     /// What the bakery did.
///     #[derive(Clone, Default)]
///     pub struct Bakery {
///         /// Loaves baked.
///         counter loaves: u64,
///         /// Customers sent away because the shelves were empty.
///         limit sold_out: u64,
///         /// Ovens that are hot.
///         gauge ovens: usize,
///     }
/// }
/// use throng_runtime::metrics::Measured;
/// let bakery = Bakery { loaves: 7, ..Bakery::default() };
/// let (metric, value) = bakery.measure()[0];
/// assert_eq!((metric.name, metric.help, value), ("loaves", "Loaves baked.", 7));
/// ```
#[macro_export]
macro_rules! metrics {
    (@kind counter) => { $crate::metrics::Kind::Counter };
    (@kind limit) => { $crate::metrics::Kind::Limit };
    (@kind gauge) => { $crate::metrics::Kind::Gauge };
    (@limit limit $value:expr) => { $value as u64 };
    (@limit $kind:ident $value:expr) => { 0 };
    (
        $(#[$meta:meta])*
        pub struct $Name:ident {
            $($(#[doc = $doc:literal])+ $kind:ident $field:ident: $ty:ty,)*
        }
    ) => {
        $(#[$meta])*
        pub struct $Name {
            $($(#[doc = $doc])+ pub $field: $ty,)*
        }

        impl $Name {
            /// The description of every field, in order.
            pub const METRICS: &'static [$crate::metrics::Metric] = &[
                $($crate::metrics::Metric {
                    name: stringify!($field),
                    help: concat!($($doc),+).trim_ascii(),
                    kind: $crate::metrics!(@kind $kind),
                },)*
            ];

            /// The sum of the limits among them, to see cheaply whether one has been reached.
            pub fn limits(&self) -> u64 {
                0_u64$(.wrapping_add($crate::metrics!(@limit $kind self.$field)))*
            }
        }

        impl $crate::metrics::Measured for $Name {
            fn measure(&self) -> Vec<(&'static $crate::metrics::Metric, u64)> {
                let values = [$(self.$field as u64,)*];
                $Name::METRICS.iter().zip(values).collect()
            }
        }
    };
}
