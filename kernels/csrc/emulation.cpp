// The boundary scan on host threads, with the C interface of boundary_scan.cu: a test of the algorithm without a GPU.
// Compile with -std=c++20 -pthread and a small -DHNET_THREADS. A few blocks run at a time, as on a
// small GPU, and prefixes are published late, so that the look-back is long.
#include <atomic>
#include <barrier>
#include <chrono>
#include <thread>
#include <vector>

#include "boundary_scan.cuh"

namespace {

constexpr int BLOCKS_AT_A_TIME = 12;

struct Common {
    std::barrier<> barrier{hnet::THREADS};
    int values[hnet::THREADS];
    hnet::Shared shared;
};

struct HostBlock {
    Common& common;
    int index;

    int thread() const { return index; }
    void sync() { common.barrier.arrive_and_wait(); }
    hnet::Word read(const hnet::Word* p) {
        std::this_thread::yield();
        return std::atomic_ref(*const_cast<hnet::Word*>(p)).load(std::memory_order_relaxed);
    }
    void write(hnet::Word* p, hnet::Word value) {
        if (value & hnet::PREFIX) std::this_thread::sleep_for(std::chrono::microseconds(300));
        std::atomic_ref(*p).store(value, std::memory_order_relaxed);
    }
    hnet::Word add(hnet::Word* p) { return std::atomic_ref(*p).fetch_add(1); }
    int scan(int value, int* total) {
        common.values[index] = value;
        sync();
        int before = 0;
        *total = 0;
        for (int i = 0; i < hnet::THREADS; ++i) {
            before += i < index ? common.values[i] : 0;
            *total += common.values[i];
        }
        sync();
        return before;
    }
};

}  // namespace

extern "C" long long hnet_boundary_scan_workspace(long long num_units) {
    return hnet::HEADER + (num_units + hnet::TILE - 1) / hnet::TILE;
}

extern "C" int hnet_boundary_scan(const void* mask, const void* cu_seqlens, long long num_units, int num_documents,
                                  void* chunk_index, void* chunk_offsets, void* chunk_cu_seqlens, void* workspace,
                                  void*) {
    const hnet::Arguments arguments{static_cast<const unsigned char*>(mask), static_cast<const int*>(cu_seqlens),
                                    num_units, num_documents, static_cast<long long*>(chunk_index),
                                    static_cast<int*>(chunk_offsets), static_cast<int*>(chunk_cu_seqlens),
                                    static_cast<hnet::Word*>(workspace)};
    const long long num_tiles = (num_units + hnet::TILE - 1) / hnet::TILE;
    std::vector<Common> commons(BLOCKS_AT_A_TIME);
    std::vector<std::thread> threads;
    for (int slot = 0; slot < BLOCKS_AT_A_TIME; ++slot)
        for (int index = 0; index < hnet::THREADS; ++index)
            threads.emplace_back([&, slot, index] {
                HostBlock block{commons[slot], index};
                for (long long i = slot; i < num_tiles; i += BLOCKS_AT_A_TIME) {
                    hnet::boundary_scan(block, commons[slot].shared, arguments);
                    block.sync();
                }
            });
    for (auto& thread : threads) thread.join();
    return 0;
}

extern "C" const char* hnet_error_string(int) { return "no error"; }
