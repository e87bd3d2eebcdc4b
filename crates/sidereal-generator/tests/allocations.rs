//! What a step of the search takes from the system once buffers are warm: lists of a few numbers a row, never a matrix.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use candle_core::Device;
use sidereal_core::CodeVocab;
use sidereal_generator::bench::{bench_beam_input, bench_model};
use sidereal_generator::models::llm::{CodeTokens, DecoderModel};
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::{NextCodeModel, ScoreNorm};
use sidereal_nn::decoder::DecoderConfig;
use sidereal_nn::kernels::Precision;

/// Counts what the calling thread takes.
struct Counting;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // A thread that is going away has nothing to count in any more.
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + bytes));
}

// SAFETY: all work is the system allocator's; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's layout, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's layout, handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's pointer and layout, handed on.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's pointer and layout, handed on.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BEAMS: usize = 50;

/// Holds that warm steps of a model whose smallest matrix has `width` numbers a row take none.
fn check(what: &str, model: &impl NextCodeModel, histories: &[&[u32]], width: usize) {
    let rows = histories.len() * BEAMS;
    let codes: Vec<u16> = (0..rows).map(|row| (row % 256) as u16).collect();
    let first: Vec<u32> = (0..rows).map(|row| (row / BEAMS) as u32).collect();
    let later: Vec<u32> = (0..rows as u32).collect();
    for warm in [false, false, true] {
        let (mut state, scores) = model.begin(histories, ScoreNorm::Full).unwrap();
        drop(scores);
        for level in 1..4 {
            let parents = if level == 1 { &first } else { &later };
            TAKEN.set(0);
            let (next, scores) = model.step(&state, parents, &codes, ScoreNorm::Full).unwrap();
            let taken = TAKEN.get();
            assert_eq!(scores.rows(), rows);
            state = next;
            // What is allowed is what says where a row comes from.
            let allowed = rows * (16 + 12 * level) * size_of::<u32>();
            assert!(allowed < rows * width * size_of::<f32>());
            assert!(!warm || taken <= allowed, "{what}, level {level}: {taken} bytes, {allowed} allowed");
        }
    }
}

#[test]
fn a_step_of_the_search_allocates_no_matrix() {
    let (catalog, histories) = bench_beam_input(500, &[256; 4], 2, 20, 3).unwrap();
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level());
    let histories: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
    let config = TigerConfig::default();
    let t5 = bench_model(None, config.t5(&vocab).unwrap(), 3, &Device::Cpu).unwrap();
    let sizes = DecoderConfig {
        vocab: vocab.size() as usize,
        width: 128,
        inside: 256,
        layers: 2,
        heads: 4,
        key_heads: 2,
        head_width: 32,
        max_positions: 100,
        eps: 1e-6,
        theta: 1e4,
        scaling: None,
        input_bias: true,
        output_bias: false,
        head_norms: true,
        tied: true,
        ends: vec![CodeVocab::EOS],
    };
    let decoder = DecoderModel::new(sizes, 3, &Device::Cpu).unwrap();
    let codes = CodeTokens::counted(&vocab);
    for precision in Precision::ALL {
        check(&format!("T5, {precision:?}"), &t5.inference(&vocab, precision).unwrap(), &histories, config.d_model);
        let decoder = decoder.inference(&vocab, &codes, precision, true).unwrap();
        check(&format!("decoder, {precision:?}"), &decoder, &histories, 128);
    }
}
