# Compiler flags of every target of ours, on one interface target.
add_library(holo_options INTERFACE)
target_include_directories(holo_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(holo_options INTERFACE HOLO_VERSION="${PROJECT_VERSION}")
target_compile_options(holo_options INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wunused -Woverloaded-virtual -Wcast-qual
  # Decoders on any machine must produce the same bits: no fused multiply-add behind our back.
  -ffp-contract=off
  # With -O2 gcc 12 warns of overflows in its own std::string and std::vector that cannot happen.
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow>
  $<$<BOOL:${HOLO_WARNINGS_AS_ERRORS}>:-Werror>)

if(HOLO_SANITIZE)
  # -fno-sanitize=function: clang 14 cannot instrument coroutines with it.
  set(holo_sanitize_flags -fsanitize=${HOLO_SANITIZE} -fno-omit-frame-pointer)
  if(HOLO_SANITIZE MATCHES undefined)
    list(APPEND holo_sanitize_flags -fno-sanitize-recover=undefined)
    if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
      list(APPEND holo_sanitize_flags -fno-sanitize=function,vptr)
    endif()
  endif()
  target_compile_options(holo_options INTERFACE ${holo_sanitize_flags})
  target_link_options(holo_options INTERFACE ${holo_sanitize_flags})
endif()
if(HOLO_FUZZ)
  target_compile_options(holo_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

find_program(HOLO_MOLD mold)
if(HOLO_MOLD)
  target_link_options(holo_options INTERFACE -fuse-ld=mold)
endif()

find_program(HOLO_CCACHE ccache)
if(HOLO_CCACHE)
  # A second clone of the same sources hits the cache too.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${HOLO_CCACHE})
endif()

if(NOT HOLO_TEST_DATA AND EXISTS ${PROJECT_SOURCE_DIR}/../shared/data)
  set(HOLO_TEST_DATA ${PROJECT_SOURCE_DIR}/../shared/data)
endif()
