//! Random mask expressions over random sizes: text, materialized mask, tiles and attention agree with the reference. And
//! random problems of everything that can be asked for together.

mod caches;
mod check;
mod draw;
mod learned;
pub(crate) mod soak;

use caches::check_cache;
use check::check;
use proptest::prelude::*;
use wgpu_attention::mask::TileGrid;
use wgpu_attention::{Mask, Shape};

use crate::bounds::BY_BOUNDS;
use crate::fixture::{check_forward, is_brief, mask_data};
use crate::masks::{check_materialized, check_tiles, check_tiles_on};

/// An expression of a few leaves.
pub(crate) fn mask() -> impl Strategy<Value = Mask> {
    let bound = prop_oneof![Just(None), (0u32..40).prop_map(Some)];
    let leaf = prop_oneof![
        Just(Mask::All),
        Just(Mask::causal()),
        Just(Mask::causal_upper_left()),
        (-20..20i32).prop_map(Mask::causal_offset),
        (bound.clone(), bound).prop_map(|(left, right)| Mask::window(left, right)),
        Just(Mask::KeyLengths),
        Just(Mask::KeyPadding),
        Just(Mask::TokenPadding),
        Just(Mask::Prefix),
        Just(Mask::Documents),
        Just(Mask::NotSelf),
        Just(Mask::Dense),
        (1..30u32).prop_map(Mask::chunk),
        (0..9u32, 1..6u32).prop_map(|(window, step)| Mask::dilated(window, step)),
        (1..9u32).prop_map(Mask::strided),
        (0..9u32).prop_map(Mask::global),
        Just(Mask::BlockBidirectional),
        Just(Mask::Buckets),
        Just(Mask::ColumnRanges),
        Just(Mask::column_ranges_bidirectional()),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a & b),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a | b),
            inner.clone().prop_map(|a| !a),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Mask::PerHead(vec![a, b])),
            inner.prop_map(Mask::self_only_if_alone),
        ]
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    (1..3usize, 1..3usize, 1..60usize, 1..60usize).prop_map(
        |(batch, group, seq_len_q, seq_len_kv)| {
            Shape::new(batch, 2 * group, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2)
        },
    )
}

proptest! {
    // Each case compiles a handful of pipelines.
    #![proptest_config(ProptestConfig { cases: if is_brief() { 12 } else { 24 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn masks_and_tiles_are_right(
        mask in mask(),
        shape in shape(),
        (block_q, block_kv) in (1..20usize, 1..20usize),
        seed in any::<u64>(),
    ) {
        let data = mask_data(&shape, seed);
        check_materialized(&mask, &shape, &data);
        let grid = TileGrid { block_q, block_kv };
        check_tiles(&mask, &shape, &data, grid);
        check_tiles_on(&BY_BOUNDS, &mask, &shape, &data, grid);
        check_forward(shape, &mask.to_string(), seed);
    }
}

/// A seed each, of whatever it is that they draw. The last one has a score cache in chunks, and fewer keys than a subgroup has lanes,
/// which the sanitizer found to race.
#[test]
fn whatever_goes_together() {
    for seed in (0..if is_brief() { 3 } else { 24 }).chain([300_004]) {
        check(seed);
    }
}

/// The same over caches.
#[test]
fn whatever_is_cached() {
    for seed in 0..if is_brief() { 2 } else { 16 } {
        check_cache(seed);
    }
}
