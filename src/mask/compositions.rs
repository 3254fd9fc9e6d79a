//! Masks that papers and models have given names to, as compositions of leaves.
//!
//! Each is a [`Mask`] like any other: join it with [`Mask::KeyLengths`] for a padded batch, write it as text, give it
//! to some of the heads. What it reads at run time is what its leaves read.
//!
//! ```
//! use wgpu_attention::Mask;
//! use wgpu_attention::mask::compositions;
//! let padded = compositions::longformer(256, 1) & Mask::KeyLengths;
//! assert_eq!(padded.to_string(), "(window(256,256) | global(1)) & key_lengths");
//! ```

use super::Mask;

/// A sliding window over the past: the own position and the `size − 1` before it.
///
/// Longformer's causal form (Beltagy et al. 2020, [arXiv 2004.05150](https://arxiv.org/abs/2004.05150)) and Mistral 7B's
/// (Jiang et al. 2023, [arXiv 2310.06825](https://arxiv.org/abs/2310.06825)); Hugging Face's `sliding_window = size`.
/// The own position is kept even for a size of 0.
///
/// ```
/// assert_eq!(wgpu_attention::mask::compositions::sliding_window(4096).to_string(), "window(4095,0)");
/// ```
pub fn sliding_window(size: u32) -> Mask {
    Mask::window(size.saturating_sub(1), 0)
}

/// Longformer: `window` keys on either side, and the first `global` tokens see and are seen by all.
///
/// Beltagy et al. 2020, [arXiv 2004.05150](https://arxiv.org/abs/2004.05150), §3.1. Its `attention_window` of 512 is
/// `window = 256`.
///
/// ```
/// let mask = wgpu_attention::mask::compositions::longformer(256, 1);
/// assert_eq!(mask.to_string(), "window(256,256) | global(1)");
/// ```
pub fn longformer(window: u32, global: u32) -> Mask {
    Mask::window(window, window) | Mask::global(global)
}

/// BigBird: a window, the first tokens, and blocks of keys chosen at random, which are data: `dense`.
///
/// Zaheer et al. 2020, [arXiv 2007.14062](https://arxiv.org/abs/2007.14062), §2. Where the choice is the same for all
/// sequences or heads, `dense` is broadcast.
///
/// ```
/// let mask = wgpu_attention::mask::compositions::bigbird(96, 2);
/// assert_eq!(mask.to_string(), "window(96,96) | global(2) | dense");
/// ```
pub fn bigbird(window: u32, global: u32) -> Mask {
    longformer(window, global) | Mask::Dense
}

/// Prefix-LM: a prefix that is seen by all of its tokens and all after it, then causal text.
///
/// Raffel et al. 2019 (T5), [arXiv 1910.10683](https://arxiv.org/abs/1910.10683), §3.2.1; PaliGemma reads images so.
/// Reads `prefix_lengths`.
///
/// ```
/// assert_eq!(wgpu_attention::mask::compositions::prefix_lm().to_string(), "prefix | causal");
/// ```
pub fn prefix_lm() -> Mask {
    Mask::Prefix | Mask::causal()
}

/// Packed causal documents: several texts in one sequence, none of which sees another.
///
/// Krell et al. 2021, [arXiv 2107.02027](https://arxiv.org/abs/2107.02027), §3.2.2; Llama 3 is trained so
/// ([arXiv 2407.21783](https://arxiv.org/abs/2407.21783), §3.2). Reads `document_ids_q` and `document_ids_kv`.
///
/// ```
/// assert_eq!(wgpu_attention::mask::compositions::packed_documents().to_string(), "documents & causal");
/// ```
pub fn packed_documents() -> Mask {
    Mask::Documents & Mask::causal()
}

/// StreamingLLM: the last `window` tokens, the own among them, and the first `sinks` ones, which soak up attention.
///
/// Xiao et al. 2023, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453), §3.2. `global` also lets the first queries see
/// every key; `causal` takes those that come later away again.
///
/// ```
/// let mask = wgpu_attention::mask::compositions::streaming_llm(1020, 4);
/// assert_eq!(mask.to_string(), "causal & (window(1019,0) | global(4))");
/// ```
pub fn streaming_llm(window: u32, sinks: u32) -> Mask {
    Mask::causal() & (sliding_window(window) | Mask::global(sinks))
}

/// Gemma 2: layers 0, 2, 4 … see a sliding window (of 4096), layers 1, 3, 5 … everything before.
///
/// Gemma Team 2024, [arXiv 2408.00118](https://arxiv.org/abs/2408.00118), §2; layers as in the released weights. Its
/// scores are capped, too: [`crate::ScoreModifiers::softcap`].
///
/// ```
/// use wgpu_attention::mask::compositions::gemma2;
/// assert_eq!([0, 1, 2].map(|layer| gemma2(layer, 4096).to_string()), ["window(4095,0)", "causal", "window(4095,0)"]);
/// ```
pub fn gemma2(layer: usize, window: u32) -> Mask {
    alternating(layer, 2, sliding_window(window))
}

/// Gemma 3: five layers with a sliding window (of 1024, or 512 in the smallest model), then one that sees everything
/// before: layers 5, 11, 17 …
///
/// Gemma Team 2025, [arXiv 2503.19786](https://arxiv.org/abs/2503.19786), §2. For images, add
/// `| block_bidirectional`.
///
/// ```
/// use wgpu_attention::mask::compositions::gemma3;
/// assert_eq!([4, 5, 6].map(|layer| gemma3(layer, 1024).to_string()), ["window(1023,0)", "causal", "window(1023,0)"]);
/// ```
pub fn gemma3(layer: usize, window: u32) -> Mask {
    alternating(layer, 6, sliding_window(window))
}

/// Llama 4: three layers that see their own chunk (of 8192 positions), then one that sees everything before: layers 3,
/// 7, 11 …
///
/// The model's configuration, `attention_chunk_size` and `no_rope_layers`; the idea is that of blockwise local attention
/// (Child et al. 2019, [arXiv 1904.10509](https://arxiv.org/abs/1904.10509)).
///
/// ```
/// use wgpu_attention::mask::compositions::llama4;
/// assert_eq!([2, 3].map(|layer| llama4(layer, 8192).to_string()), ["chunk(8192) & causal", "causal"]);
/// ```
pub fn llama4(layer: usize, chunk: u32) -> Mask {
    alternating(layer, 4, Mask::chunk(chunk) & Mask::causal())
}

/// Every `period`th layer sees everything before, the others what is local.
fn alternating(layer: usize, period: usize, local: Mask) -> Mask {
    if layer % period == period - 1 { Mask::causal() } else { local }
}

/// Reformer's LSH attention: earlier positions of the own bucket, the own one only where there is no other.
///
/// Kitaev et al. 2020, [arXiv 2001.04451](https://arxiv.org/abs/2001.04451), §2. Reads `bucket_ids`, whose rounds are
/// joined: a key is kept that shares a bucket in any of them.
///
/// ```
/// let mask = wgpu_attention::mask::compositions::reformer();
/// assert_eq!(mask.to_string(), "self_only_if_alone(buckets & causal)");
/// ```
pub fn reformer() -> Mask {
    (Mask::Buckets & Mask::causal()).self_only_if_alone()
}

/// Speculative decoding: the whole cache, and of the drafted tokens a query's own ancestors and itself.
///
/// SpecInfer (Miao et al. 2023, [arXiv 2305.09781](https://arxiv.org/abs/2305.09781), §4), Medusa (Cai et al. 2024,
/// [arXiv 2401.10774](https://arxiv.org/abs/2401.10774), §2.1.2). The last `seq_len_q` keys are the drafted ones; reads
/// `tree_parents`.
///
/// ```
/// assert_eq!(wgpu_attention::mask::compositions::speculative_tree().to_string(), "tree");
/// ```
pub fn speculative_tree() -> Mask {
    Mask::Tree
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auxiliary::AuxData;
    use crate::mask::Evaluator;
    use crate::tensor::shape::Shape;

    /// Compares a mask of one sequence and head with a drawing: `#` is kept, `.` isn't.
    #[track_caller]
    fn check(mask: &Mask, data: &AuxData, drawing: &[&str]) {
        let shape = Shape::new(1, 1, drawing.len(), 1).seq_len_kv(drawing[0].len());
        let evaluator = Evaluator::new(mask, data, &shape).unwrap();
        let cell = |q_idx, kv_idx| if evaluator.keep(0, 0, q_idx, kv_idx) { '#' } else { '.' };
        let row = |q_idx| (0..shape.seq_len_kv).map(|kv_idx| cell(q_idx, kv_idx)).collect();
        let drawn: Vec<String> = (0..shape.seq_len_q).map(row).collect();
        assert_eq!(drawn, drawing, "{mask}");
        assert_eq!(mask.to_string().parse::<Mask>().unwrap(), *mask);
    }

    const CAUSAL: [&str; 6] = ["#.....", "##....", "###...", "####..", "#####.", "######"];
    const WINDOW_OF_3: [&str; 6] = ["#.....", "##....", "###...", ".###..", "..###.", "...###"];

    #[test]
    fn windows() {
        check(&sliding_window(3), &AuxData::new(), &WINDOW_OF_3);
        let own = ["#..", ".#.", "..#"];
        check(&sliding_window(1), &AuxData::new(), &own);
        check(&sliding_window(0), &AuxData::new(), &own);
        check(
            &longformer(1, 1),
            &AuxData::new(),
            &["######", "###...", "####..", "#.###.", "#..###", "#...##"],
        );
        check(
            &streaming_llm(2, 2),
            &AuxData::new(),
            &["#.....", "##....", "###...", "####..", "##.##.", "##..##"],
        );
    }

    #[test]
    fn windows_over_a_cache() {
        check(&streaming_llm(2, 1), &AuxData::new(), &["#..##.", "#...##"]);
        check(&longformer(1, 1), &AuxData::new(), &["#..###", "#...##"]);
    }

    #[test]
    fn random_blocks() {
        // Blocks of two: the first row of blocks has the last column's, the third the second's.
        let random = |index: usize| matches!((index / 6 / 2, index % 6 / 2), (0, 2) | (2, 1));
        let data = AuxData::new().dense([1, 1, 6, 6], (0..36).map(random));
        check(&bigbird(1, 1), &data, &["######", "###.##", "####..", "#.###.", "#.####", "#.####"]);
    }

    #[test]
    fn prefixes_and_documents() {
        check(
            &prefix_lm(),
            &AuxData::new().prefix_lengths([3]),
            &["###...", "###...", "###...", "####..", "#####.", "######"],
        );
        check(
            &packed_documents(),
            &AuxData::new().document_ids([4, 4, 4, 2, 2, 7]),
            &["#.....", "##....", "###...", "...#..", "...##.", ".....#"],
        );
    }

    #[test]
    fn layers_alternate() {
        let is_causal = |mask: &Mask| *mask == Mask::causal();
        let layers = |of: fn(usize) -> Mask| -> String {
            (0..12).map(|layer| if is_causal(&of(layer)) { 'G' } else { 'L' }).collect()
        };
        assert_eq!(layers(|layer| gemma2(layer, 3)), "LGLGLGLGLGLG");
        assert_eq!(layers(|layer| gemma3(layer, 3)), "LLLLLGLLLLLG");
        assert_eq!(layers(|layer| llama4(layer, 3)), "LLLGLLLGLLLG");
        check(&gemma2(0, 3), &AuxData::new(), &WINDOW_OF_3);
        check(&gemma2(1, 3), &AuxData::new(), &CAUSAL);
        check(&gemma3(4, 3), &AuxData::new(), &WINDOW_OF_3);
        check(&gemma3(5, 3), &AuxData::new(), &CAUSAL);
        check(
            &llama4(0, 3),
            &AuxData::new(),
            &["#.....", "##....", "###...", "...#..", "...##.", "...###"],
        );
        check(&llama4(3, 3), &AuxData::new(), &CAUSAL);
    }

    #[test]
    fn buckets() {
        let data = AuxData::new().bucket_ids([1, 1, 1, 6], [0, 1, 0, 2, 1, 0]);
        check(&reformer(), &data, &["#.....", ".#....", "#.....", "...#..", ".#....", "#.#..."]);
        // A second round in which positions 1 and 3 meet.
        let ids = [0, 1, 0, 2, 1, 0, 0, 9, 1, 9, 2, 3];
        let data = AuxData::new().bucket_ids([1, 1, 2, 6], ids);
        check(&reformer(), &data, &["#.....", ".#....", "#.....", ".#....", ".#....", "#.#..."]);
    }

    #[test]
    fn trees() {
        //   0 ── 1 ── 3
        //   └─── 2 ── 4        after two keys of the cache
        let data = AuxData::new().tree_parents([-1, 0, 0, 1, 2]);
        check(&speculative_tree(), &data, &["###....", "####...", "###.#..", "####.#.", "###.#.#"]);
    }
}
