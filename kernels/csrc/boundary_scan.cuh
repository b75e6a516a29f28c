// Boundary mask to chunk indices, chunk offsets and documents over chunks, in one pass over the mask.
//
// A block takes tiles of the mask in order of arrival, counts the boundaries of its tile, publishes the count, and adds
// up what earlier tiles have published until it meets one that knows its whole prefix (decoupled look-back; Merrill and
// Garland 2016). A published word holds count and state together, so no other memory has to be ordered with it.
// Tiles are handed out by a counter, so the tiles that a block waits for have begun and wait for nothing themselves.
//
// `Block` is a block of THREADS threads: on a GPU (boundary_scan.cu), or of host threads (emulation.cpp), where the same
// text is tested without a GPU.
#pragma once

#ifdef __CUDACC__
#define HNET_DEVICE __device__ __forceinline__
#else
#define HNET_DEVICE inline
#endif

namespace hnet {

using Word = unsigned long long;

#ifdef HNET_THREADS
constexpr int THREADS = HNET_THREADS;
#else
constexpr int THREADS = 256;
#endif
constexpr int ITEMS = 16;  // units of a thread: one 16-byte load
constexpr int TILE = THREADS * ITEMS;

// The workspace: a counter of tiles handed out, one of tiles finished, and a word for each tile. All zero before and
// after a launch.
constexpr int TICKET = 0, FINISHED = 1, HEADER = 2;
constexpr Word COUNT = 0xffffffffull;   // bits of a tile's word that hold a count
constexpr Word TILE_ONLY = 1ull << 32;  // the count is the tile's own
constexpr Word PREFIX = 1ull << 33;     // the count is that of all units up to the tile's end

struct Arguments {
    const unsigned char* mask;  // (T,)
    const int* cu_seqlens;      // (B+1,)
    long long num_units;
    int num_documents;
    long long* chunk_index;  // (T,)
    int* chunk_offsets;      // (T+1,)
    int* chunk_cu_seqlens;   // (B+1,)
    Word* workspace;         // HEADER + number of tiles
};

struct Shared {
    int prefix[THREADS];     // boundaries before the thread's first unit
    unsigned bits[THREADS];  // boundaries among its units
    long long tile;
    bool is_last;
};

HNET_DEVICE int ones(unsigned bits) {
#ifdef __CUDA_ARCH__
    return __popc(bits);
#else
    return __builtin_popcount(bits);
#endif
}

// Bit i is set where unit first + i is a boundary.
HNET_DEVICE unsigned load_bits(const unsigned char* mask, long long first, long long num_units) {
    unsigned bits = 0;
    if (first + ITEMS <= num_units && reinterpret_cast<unsigned long long>(mask + first) % 16 == 0) {
        struct alignas(16) Bytes { unsigned char at[ITEMS]; };
        const Bytes bytes = *reinterpret_cast<const Bytes*>(mask + first);
        for (int i = 0; i < ITEMS; ++i) bits |= unsigned(bytes.at[i] != 0) << i;
        return bits;
    }
    for (int i = 0; i < ITEMS && first + i < num_units; ++i) bits |= unsigned(mask[first + i] != 0) << i;
    return bits;
}

// Boundaries in all tiles before `tile`. Every thread waits for one earlier tile.
template <class Block>
HNET_DEVICE int look_back(Block& block, const Word* states, long long tile) {
    int before = 0;
    for (long long nearest = tile - 1; nearest >= 0; nearest -= THREADS) {
        const long long mine = nearest - block.thread();
        Word word = 0;
        while (mine >= 0 && (word = block.read(&states[mine])) == 0) {}
        int prefixes, sum;
        // Only tiles down to the nearest that knows its prefix count.
        const int nearer = block.scan((word & PREFIX) != 0, &prefixes);
        block.scan(nearer == 0 ? int(word & COUNT) : 0, &sum);
        before += sum;
        if (prefixes > 0) break;
    }
    return before;
}

// Boundaries among the units before `unit`, which lies in the tile that begins at `start` or just behind it.
HNET_DEVICE int count_before(const Shared& shared, long long start, long long unit) {
    const int last = int(unit - 1 - start);
    return shared.prefix[last / ITEMS] + ones(shared.bits[last / ITEMS] & ((2u << last % ITEMS) - 1));
}

// First entry of the ascending cu_seqlens (B+1,) that lies above `unit`.
HNET_DEVICE int first_above(const Arguments& a, long long unit) {
    int low = 0, high = a.num_documents + 1;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (a.cu_seqlens[middle] > unit) high = middle;
        else low = middle + 1;
    }
    return low;
}

// A boundary writes its position. The n-th unit that is none writes T to the n-th entry from the end, so that all
// entries behind the chunks hold T; the one between the two, M, is the last unit's.
HNET_DEVICE void write_unit(const Arguments& a, const Shared& shared, long long start, long long unit) {
    const int count = count_before(shared, start, unit + 1), local = int(unit - start);
    const bool boundary = shared.bits[local / ITEMS] >> local % ITEMS & 1;
    a.chunk_index[unit] = count - 1;
    if (boundary) a.chunk_offsets[count - 1] = int(unit);
    else a.chunk_offsets[a.num_units - (unit - count)] = int(a.num_units);
    if (unit == a.num_units - 1) a.chunk_offsets[count] = int(a.num_units);
}

template <class Block>
HNET_DEVICE void boundary_scan(Block& block, Shared& shared, const Arguments& a) {
    const int thread = block.thread();
    Word* states = a.workspace + HEADER;
    if (thread == 0) shared.tile = (long long)block.add(&a.workspace[TICKET]);
    block.sync();
    const long long tile = shared.tile, start = tile * TILE, num_tiles = (a.num_units + TILE - 1) / TILE;
    const long long stop = start + TILE < a.num_units ? start + TILE : a.num_units;

    const unsigned bits = load_bits(a.mask, start + (long long)thread * ITEMS, a.num_units);
    int total;
    const int within = block.scan(ones(bits), &total);
    if (thread == 0) block.write(&states[tile], (tile == 0 ? PREFIX : TILE_ONLY) | Word(total));
    const int before = look_back(block, states, tile);
    if (thread == 0) block.write(&states[tile], PREFIX | Word(before + total));

    shared.prefix[thread] = before + within;
    shared.bits[thread] = bits;
    block.sync();
    for (long long unit = start + thread; unit < stop; unit += THREADS) write_unit(a, shared, start, unit);
    if (tile == 0 && thread == 0) a.chunk_cu_seqlens[0] = 0;
    const int end = first_above(a, stop);
    for (int d = first_above(a, start) + thread; d < end; d += THREADS)
        a.chunk_cu_seqlens[d] = count_before(shared, start, a.cu_seqlens[d]);

    // Whoever finishes last knows that nobody looks back any more, and leaves the workspace as it was found.
    block.sync();
    if (thread == 0) shared.is_last = block.add(&a.workspace[FINISHED]) == Word(num_tiles - 1);
    block.sync();
    if (shared.is_last)
        for (long long i = thread; i < HEADER + num_tiles; i += THREADS) a.workspace[i] = 0;
}

}  // namespace hnet
