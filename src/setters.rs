//! How options, shapes and problems are built, once for all types.

/// Setters of public fields, inside the type's `impl`. Each is named after its field, consumes the value and returns it
/// changed, so that calls chain and every type is built alike.
///
/// - `const field: T` takes a `T`, also in constants: for types that own no memory.
/// - `field: T` takes a `T`.
/// - `into field: T` takes what converts into a `T`.
/// - `option field: T`, of a field of type `Option<T>`, takes a `T` or an `Option<T>`.
/// - `some field: T` of such a field takes a `T` alone: for slices, so that a reference to a vector or an array will do; and
///   with `const`, also in constants.
macro_rules! setters {
    () => {};
    (const some $field:ident: $type:ty $(, $($rest:tt)*)?) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub const fn $field(self, $field: $type) -> Self {
            Self { $field: Some($field), ..self }
        }
        setters! { $($($rest)*)? }
    };
    (const $field:ident: $type:ty $(, $($rest:tt)*)?) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub const fn $field(self, $field: $type) -> Self {
            Self { $field, ..self }
        }
        setters! { $($($rest)*)? }
    };
    (into $field:ident: $type:ty $(, $($rest:tt)*)?) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(self, $field: impl Into<$type>) -> Self {
            Self { $field: $field.into(), ..self }
        }
        setters! { $($($rest)*)? }
    };
    (option $field:ident: $type:ty $(, $($rest:tt)*)?) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(self, $field: impl Into<Option<$type>>) -> Self {
            Self { $field: $field.into(), ..self }
        }
        setters! { $($($rest)*)? }
    };
    (some $field:ident: $type:ty $(, $($rest:tt)*)?) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(self, $field: $type) -> Self {
            Self { $field: Some($field), ..self }
        }
        setters! { $($($rest)*)? }
    };
    ($field:ident: $type:ty $(, $($rest:tt)*)?) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(self, $field: $type) -> Self {
            Self { $field, ..self }
        }
        setters! { $($($rest)*)? }
    };
}
